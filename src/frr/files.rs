//! The files and directories that the daemons and the instance after us need, all below [`RUN_DIR`] but for what FRR has
//! compiled in. That directory is root's. FRR's user has directories of its own in it, and nothing of what it puts there is read.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Config, OnStop};
use crate::files::{self, Access, LARGEST, Owner};
use crate::model::{FilePath, Value as _};

use super::daemons::{BIN_DIR, DAEMONS, Daemon, RUN_DIR, SOCKET_DIR, Version};
use super::handover::{Handover, spawn};
use super::refusal::{self, Refusal, Said};

/// Directories that FRR writes to: mgmtd's commit history, crash logs.
const OTHER_DIRECTORIES: [&str; 2] = ["/var/lib/frr", "/var/tmp/frr"];

/// Sockets other than a daemon's own vty (`lib/libfrr.h`, `lib/mgmt_defines.h`).
const OTHER_SOCKETS: [&str; 3] = ["zserv.api", "mgmtd_fe.sock", "mgmtd_be.sock"];

/// Files of ours, or for us. What FRR's user has left in their places, when it was still allowed to, is removed.
const OURS: [&str; 9] = [
    "bfd.json",
    "frr.conf",
    "frr.conf.bad",
    "frr.conf.good",
    "on-stop",
    "services.json",
    "status.json",
    "status.txt",
    "vtysh.conf",
];

/// What earlier versions wrote here: passwords are in some of it.
const OUTDATED: [&str; 3] = ["frr.conf.new", "frr.delta", "bfdd.sock"];

/// The largest template, in bytes: the one that is built in has 12 kB.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// The largest `on-stop`, in bytes.
const WORD_LIMIT: u64 = 4096;

/// Asks the installed zebra for its version.
///
/// # Errors
/// FRR is not where it should be, in a sentence.
pub fn version() -> io::Result<Version> {
    let zebra = Path::new(BIN_DIR).join("zebra");
    let output = Command::new(&zebra)
        .arg("--version")
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run {}: {e}", zebra.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text)
        .ok_or_else(|| io::Error::other(format!("{} --version does not name a version", zebra.display())))
}

/// Makes the directories: [`RUN_DIR`] of root's, and those of FRR's user, to which the daemons drop their privileges.
///
/// # Errors
/// The user is missing, or a directory can't be made.
pub fn prepare(daemons: &[&'static Daemon]) -> io::Result<()> {
    let owner = owner()?;
    fs::create_dir_all(RUN_DIR)
        .and_then(|()| directory(Path::new(RUN_DIR), (0, 0)))
        .map_err(|e| because(RUN_DIR, &e))?;
    remove_outdated();
    sockets(daemons, owner).map_err(|e| because(SOCKET_DIR, &e))?;
    if let Err(e) = super::sockets::prepare() {
        log::warn!("{e}; a daemon whose socket somebody removes is started anew");
    }
    for dir in OTHER_DIRECTORIES {
        // The daemons live without these.
        if let Err(e) = other_directory(dir, owner) {
            log::warn!("{}: FRR has no place for its commit history and crash logs", because(dir, &e));
        }
    }
    // vtysh takes one configuration for all daemons only if it is told so.
    files::save(&Path::new(RUN_DIR).join("vtysh.conf"), "service integrated-vtysh-config\n", Access::All);
    Ok(())
}

fn because(path: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("cannot prepare {path}: {e}"))
}

/// Removes what no one needs any more: the files of earlier versions, those with the numbers of processes that are gone, and what
/// was being written when its writer was killed.
fn remove_outdated() {
    let entries = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    for entry in entries {
        let (name, Ok(meta)) = (entry.file_name(), entry.metadata()) else { continue };
        let Some(name) = name.to_str().filter(|_| !meta.is_dir()) else { continue };
        let of_daemon = |ending: &str| {
            name.strip_suffix(ending).is_some_and(|name| DAEMONS.iter().any(|daemon| daemon.name == name))
        };
        let foreign = OURS.contains(&name) && meta.uid() != 0;
        if foreign {
            log::warn!(
                "{RUN_DIR}/{name} belongs to user {}, not to root: it is not used, but removed",
                meta.uid()
            );
        }
        if foreign
            || files::is_temporary(name)
            || OUTDATED.contains(&name)
            || [".pid", ".conf"].into_iter().any(of_daemon)
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The directory for FRR's sockets, and links to them at the places by which they are known: `vtysh --vty_socket /run/frr`
/// finds them. Sockets of daemons that are gone stay until the next ones replace them: where there are no inodes left, they have
/// to.
fn sockets(daemons: &[&'static Daemon], owner: (u32, u32)) -> io::Result<()> {
    let dir = Path::new(SOCKET_DIR);
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => {
            for entry in fs::read_dir(dir)?.flatten() {
                make_room(&entry.path());
            }
        }
        Ok(_) => fs::remove_file(dir)?,
        Err(_) => {}
    }
    directory(dir, owner)?;
    let relative = Path::new(dir.file_name().unwrap_or_default());
    let own = daemons.iter().map(|daemon| format!("{}.vty", daemon.name));
    for name in own.chain(OTHER_SOCKETS.map(Into::into)) {
        if let Err(e) = files::link(&Path::new(RUN_DIR).join(&name), &relative.join(&name)) {
            log::warn!("{RUN_DIR}/{name}: {e}; the socket is in {SOCKET_DIR}");
        }
    }
    Ok(())
}

/// Removes what stands where a socket is to be, and is none: FRR's own user may be unable to.
fn make_room(path: &Path) {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    }
}

fn directory(dir: &Path, owner: (u32, u32)) -> io::Result<()> {
    files::directory(dir, owner, 0o755)
}

/// Makes the directory for FRR's sockets again.
///
/// # Errors
/// It can't be made.
pub fn socket_directory() -> io::Result<()> {
    directory(Path::new(SOCKET_DIR), owner()?)
}

fn other_directory(dir: &str, owner: (u32, u32)) -> io::Result<()> {
    // An image that is read-only has a link there; only root can have made one of its own.
    let is_link = |meta: &fs::Metadata| meta.is_symlink() && meta.uid() == 0;
    let dir = match fs::symlink_metadata(dir).ok().filter(is_link).and(fs::read_link(dir).ok()) {
        Some(target) => Path::new(dir).parent().unwrap_or(Path::new("/")).join(target),
        None => dir.into(),
    };
    let mut dir: PathBuf = dir;
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) {
        fs::create_dir_all(parent)?;
        dir = fs::canonicalize(parent)?.join(name);
    }
    // An earlier version let FRR's user put anything there.
    if dir.starts_with(RUN_DIR) && fs::symlink_metadata(&dir).is_ok_and(|there| !there.is_dir()) {
        fs::remove_file(&dir)?;
    }
    directory(&dir, owner)
}

fn owner() -> io::Result<(u32, u32)> {
    static OWNER: OnceLock<(u32, u32)> = OnceLock::new();
    if let Some(owner) = OWNER.get() {
        return Ok(*owner);
    }
    let [passwd, group] = ["/etc/passwd", "/etc/group"].map(fs::read_to_string);
    match (number_of("frr", &passwd?), number_of("frr", &group?)) {
        (Some(user), Some(group)) => Ok(*OWNER.get_or_init(|| (user, group))),
        _ => Err(io::Error::other("there is no user and group \"frr\", which FRR's daemons run as")),
    }
}

/// Who may read what is shown: FRR's group, too.
pub fn shown() -> Access {
    owner().map_or(Access::Root, |(_, group)| Access::Group(group))
}

/// The number of a user or group in `/etc/passwd` or `/etc/group` (passwd(5), group(5)): the image has no other source of
/// them, and the C library's would bring a linker along.
fn number_of(name: &str, file: &str) -> Option<u32> {
    let mut lines = file.lines().filter_map(|line| line.split_once(':'));
    let (_, rest) = lines.find(|(first, _)| *first == name)?;
    rest.split(':').nth(1)?.parse().ok()
}

/// The operator's own template, if there is one.
///
/// # Errors
/// It can't be read.
pub fn template(config: &Config) -> Result<Option<String>, String> {
    let read = |path: &FilePath| {
        files::read(Path::new(path.as_str()), Owner::Operator, TEMPLATE_LIMIT)
            .map_err(|e| format!("FRR_TEMPLATE={}: {e}", path.as_str()))
    };
    config.template.as_ref().map(read).transpose()
}

/// Checks a configuration, or commands, with FRR's own parser: each line, and that it reads to the last one.
///
/// # Errors
/// What vtysh says about them, as [`io::ErrorKind::InvalidData`] (see [`refusal`]); or that it can't be run.
pub fn check(text: &str) -> io::Result<()> {
    let refused = |refusal: Refusal| Err(io::Error::new(io::ErrorKind::InvalidData, refusal));
    if let Some(refusal) = refusal::too_long(text) {
        return refused(refusal);
    }
    let (_, said) = vtysh(&refusal::with_an_end(text))?;
    let Said { whole, complaints } = Said::of(&said, text);
    if whole && complaints.is_empty() {
        return Ok(());
    }
    // Not all that it says is a refusal.
    let (well, said) = vtysh(text)?;
    let said = Said::of(&said, text);
    match (well, whole) {
        (true, true) => Ok(()),
        (false, true) => refused(Refusal(said.complaints)),
        (_, false) => refused(said.cut_short()),
    }
}

/// vtysh takes some 0.1 ms for a line of a configuration; no check may stop everything else for good.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// Has vtysh check a text. Whether it accepts it, and what it says.
fn vtysh(text: &str) -> io::Result<(bool, String)> {
    let cannot = |e: io::Error| io::Error::new(e.kind(), format!("cannot run vtysh: {e}"));
    let text = Handover::text("frr.conf", text).map_err(cannot)?;
    let mut command = Command::new("/usr/bin/vtysh");
    command.args(["--config_dir", RUN_DIR, "-C", "-f", &text.path()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output =
        spawn(&mut command, &[&text]).and_then(|child| output_within(CHECK_LIMIT, child)).map_err(cannot)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// What a process has printed until its end, which comes when `limit` is over at the latest.
fn output_within(limit: Duration, child: Child) -> io::Result<Output> {
    let pid = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(io::Error::from);
    let (ended, end) = mpsc::channel::<()>();
    // Without a descriptor or a thread there is no limit.
    let watch = pid.and_then(|pid| {
        thread::Builder::new().name("check".into()).spawn(move || {
            let late = end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            late && pidfd_send_signal(pid, Signal::KILL).is_ok()
        })
    });
    let output = child.wait_with_output();
    drop(ended);
    match watch.map(thread::JoinHandle::join) {
        Ok(Ok(true)) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("it has not ended within {} s", limit.as_secs()),
        )),
        _ => output,
    }
}

/// What vtysh has said, if that is why a check failed.
pub fn refusal(e: &io::Error) -> Option<&Refusal> {
    e.get_ref()?.downcast_ref()
}

/// The line that the refusal of a text names first, counted from 1.
pub fn named_line(e: &io::Error) -> Option<usize> {
    refusal(e)?.0.iter().find_map(|complaint| complaint.line)
}

/// The file for what MetalLB's speaker announced.
pub const SERVICES: &str = "services.json";

/// The file for bfdd's sessions.
pub const BFD_SESSIONS: &str = "bfd.json";

/// What an earlier instance wrote down in that file; nothing if there is none or it can't be read.
pub fn recall<T: DeserializeOwned + Default>(file: &str) -> T {
    let path = Path::new(RUN_DIR).join(file);
    let parse = |text: String| serde_json::from_str(&text).map_err(io::Error::from);
    match files::read(&path, Owner::Root, LARGEST).and_then(parse) {
        Ok(value) => value,
        Err(e) if e.kind() == io::ErrorKind::NotFound => T::default(),
        Err(e) => {
            log::warn!("{} is not used: {e}", path.display());
            T::default()
        }
    }
}

/// Writes something down for an instance that comes after us.
pub fn write_down(file: &str, what: &impl Serialize) {
    match serde_json::to_string(what) {
        Ok(text) => files::save(&Path::new(RUN_DIR).join(file), &text, Access::Root),
        Err(e) => log::warn!("{RUN_DIR}/{file}: {e}"),
    }
}

/// The word in the file that overrides `ON_STOP` for the next stop, if there is one.
pub fn on_stop() -> Option<OnStop> {
    let path = Path::new(RUN_DIR).join("on-stop");
    let text = match files::read(&path, Owner::Root, WORD_LIMIT) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            log::error!("{}: {e}; ON_STOP holds", path.display());
            return None;
        }
    };
    OnStop::parse(text.trim())
        .inspect_err(|_| {
            log::error!("{}: {:?} is not {}", path.display(), text.trim(), OnStop::allowed());
        })
        .ok()
}

fn pid_path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name).with_extension("pid")
}

/// Makes room for a daemon that is about to start.
pub fn clear(name: &str) {
    make_room(&Path::new(SOCKET_DIR).join(name).with_extension("vty"));
}

/// Writes down which process a daemon is, for whoever wants to know. We don't.
pub fn started(name: &str, pid: Pid) {
    files::save(&pid_path(name), &format!("{}\n", pid.as_raw_nonzero()), Access::All);
}

/// The daemon is gone.
pub fn ended(name: &str) {
    files::remove(&pid_path(name));
}

/// Removes the directory that a daemon makes for each of its lives; of those with a crash log the last one stays.
pub fn sweep(name: &str, pid: Pid) {
    let dir = Path::new(OTHER_DIRECTORIES[1]);
    let own = dir.join(format!("{name}.{}", pid.as_raw_nonzero()));
    let _ = if own.join("crashlog").exists() {
        let last = dir.join(format!("{name}.crashed"));
        let _ = fs::remove_dir_all(&last);
        fs::rename(&own, &last)
    } else {
        fs::remove_dir_all(&own)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_has_an_end() {
        let start = |seconds| Command::new("sleep").arg(seconds).stdout(Stdio::piped()).spawn().unwrap();
        assert!(output_within(Duration::from_secs(30), start("0")).unwrap().status.success());
        let late = output_within(Duration::from_millis(50), start("60")).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn users_and_groups_have_numbers() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nfrrvty:x:92:\nfrr:x:101:102:FRR,,,:/nonexistent:/sbin/nologin\n";
        assert_eq!(number_of("frr", passwd), Some(101));
        assert_eq!(number_of("frrvty", passwd), Some(92));
        for none in ["", "frr", "frr:x", "frr:x:", "frr:x:a:1", "nofrr:x:1:1"] {
            assert_eq!(number_of("frr", none), None, "{none:?}");
        }
    }
}
