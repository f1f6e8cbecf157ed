//! The command line.

use std::io::Write as _;
use std::process::ExitCode;

use frr_supervisor::config::{self, Config, file};
use frr_supervisor::frr::{self, Inputs, Version, files};
use frr_supervisor::model::{FilePath, IfName, Value as _};
use frr_supervisor::node::line;
use frr_supervisor::supervisor::Signals;
use frr_supervisor::{logging, run, status};
use lexopt::Arg::{Long, Short, Value};

const USAGE: &str = "\
Usage: frr-supervisor [run | check | render | schema | status [--json] [--watch]] [--help] [--version]

  run     set the node up and run the FRR daemons (default)
  check   read the configuration and say what is wrong with it
  render  print the frr.conf that the configuration leads to, with the fabric interfaces
          called fabric0, fabric1 … since their real names are known on the node only
  schema  print the JSON Schema of the file that CONFIG_FILE names
  status  show how the node is; it exits with 0 if it is healthy, with 1 if something is wrong and
          with 3 if it is cut off or not running. --json prints /run/frr/status.json, --watch goes on

The configuration is read from environment variables; an empty one counts as unset:

";

enum Command {
    /// Something with the configuration.
    With(Use),
    Status(status::Command),
}

enum Use {
    Run,
    Check,
    Render,
}

fn main() -> ExitCode {
    match command() {
        Ok(Some(Command::Status(options))) => status::command(options),
        Ok(Some(Command::With(what))) => execute(&what),
        Ok(None) => ExitCode::SUCCESS,
        Err(e) => {
            complain(format_args!("{e}; --help shows what is"));
            ExitCode::from(2)
        }
    }
}

/// What to do; `None` where the answer has been printed already.
fn command() -> Result<Option<Command>, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut command = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                print(&format!("{USAGE}{}", config::text()));
                return Ok(None);
            }
            Short('V') | Long("version") => {
                print(concat!("frr-supervisor ", env!("CARGO_PKG_VERSION"), "\n"));
                return Ok(None);
            }
            Long(word @ ("json" | "watch")) => {
                let Some(Command::Status(options)) = &mut command else {
                    return Err(format!("--{word} goes with status").into());
                };
                if word == "json" {
                    options.json = true;
                } else {
                    options.watch = true;
                }
            }
            Value(word) if command.is_none() => {
                command = Some(match word.to_str() {
                    Some("run") => Command::With(Use::Run),
                    Some("check") => Command::With(Use::Check),
                    Some("render") => Command::With(Use::Render),
                    Some("status") => Command::Status(status::Command::default()),
                    Some("schema") => {
                        print(&file::schema());
                        return Ok(None);
                    }
                    _ => return Err(format!("{word:?} is not a command").into()),
                });
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(command.unwrap_or(Command::With(Use::Run))))
}

fn execute(what: &Use) -> ExitCode {
    // Before anything that takes its time: as PID 1 a signal without a handler is lost.
    let signals = matches!(what, Use::Run).then(Signals::catch);
    let base = match config::from_vars(std::env::vars_os()) {
        Ok(base) => base,
        Err(problems) => {
            for problem in &problems {
                complain(problem);
            }
            if matches!(what, Use::Check) {
                alone().iter().for_each(complain);
            }
            return ExitCode::FAILURE;
        }
    };
    let (config, problems) = base.with_file();
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let config = match config {
        Ok(config) => config,
        Err(problem) => {
            problems.iter().for_each(complain);
            complain(problem);
            return ExitCode::FAILURE;
        }
    };
    let remark = config.file.as_ref().and_then(file::remark);
    let result = match what {
        Use::Run => {
            logging::start(config.log_level, config.log_format);
            remark.iter().for_each(|remark| log::warn!("{remark}"));
            let signals = signals.unwrap_or_else(Signals::catch).map_err(line);
            signals.and_then(|signals| run::run(&base, config, &problems, signals))
        }
        Use::Check => {
            remark.iter().for_each(complain);
            let problems = [render(&config).err().unwrap_or_default(), problems].concat();
            none(problems).map(|()| print("configuration: no problem found\n"))
        }
        Use::Render => render(&config).and_then(|text| {
            print(&text);
            none(problems)
        }),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in &problems {
                if matches!(what, Use::Run) {
                    log::error!("{problem}");
                } else {
                    complain(problem);
                }
            }
            ExitCode::FAILURE
        }
    };
    logging::finish();
    code
}

fn none(problems: Vec<String>) -> Result<(), Vec<String>> {
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Every problem that the file has by itself, since the environment is not fit to hold it against.
fn alone() -> Vec<config::Problem> {
    let path = std::env::var("CONFIG_FILE").ok();
    let path = path.and_then(|path| FilePath::parse(path.trim()).ok());
    path.map_or_else(Vec::new, |path| file::inspect(&path))
}

/// The frr.conf of a node whose interfaces are not known, since this may run anywhere.
fn render(config: &Config) -> Result<String, Vec<String>> {
    let template = files::template(config).map_err(|e| vec![e])?;
    let ports: Vec<IfName> = (0..config.fabric_macs.len())
        .map(|i| IfName::parse(&format!("fabric{i}")))
        .collect::<Result<_, _>>()
        .map_err(|e| vec![e.to_string()])?;
    let inputs = Inputs {
        config,
        ports: &ports,
        node_ip_is_local: config.namespace.as_deref().is_none(),
        port_addresses: &[],
        version: Version::NEWEST,
    };
    frr::render(&inputs, template.as_deref()).map_err(|e| vec![e])
}

/// Says what is wrong, and does not mind that no one may listen.
fn complain(problem: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "frr-supervisor: {problem}");
}

/// Prints, and does not mind a reader that has gone.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
