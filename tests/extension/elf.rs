//! What a program is linked with.

use std::path::{Path, PathBuf};

use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

/// What the dynamic loader needs.
pub struct Program {
    pub machine: elf::Machine,
    pub interpreter: Option<String>,
    pub needed: Vec<String>,
    runpath: Vec<String>,
}

/// Reads a program; nothing if the file is not an ELF program.
pub fn read(path: &Path) -> Option<Program> {
    let data = std::fs::read(path).ok()?;
    let header = FileHeader64::<object::Endianness>::parse(&*data).ok()?;
    let endian = header.endian().ok()?;
    let mut program =
        Program { machine: header.e_machine(endian), interpreter: None, needed: vec![], runpath: vec![] };
    let headers = header.program_headers(endian, &*data).ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let at = |address: u64| {
        headers.iter().find_map(|h| {
            let (start, size) = (h.p_vaddr(endian), h.p_filesz(endian));
            (h.p_type(endian) == elf::PT_LOAD && (start..start + size).contains(&address))
                .then(|| usize::try_from(h.p_offset(endian) + address - start).ok())?
        })
    };
    for header in headers {
        if header.p_type(endian) == elf::PT_INTERP {
            program.interpreter = header.data(endian, &*data).ok().map(text);
        }
        let Ok(Some(entries)) = header.dynamic(endian, &*data) else { continue };
        let value = |tag: elf::DynamicTag| {
            let all = entries.iter().filter(move |e| e.tag(endian) == tag);
            all.filter_map(|e| e.val32(endian)).collect::<Vec<_>>()
        };
        let strings = entries.iter().find(|e| e.tag(endian) == elf::DT_STRTAB);
        let Some(strings) = strings.and_then(|e| at(e.d_val(endian))) else { continue };
        let string = |offset: &u32| {
            let rest = data.get(strings + *offset as usize..)?;
            Some(text(&rest[..rest.iter().position(|b| *b == 0)?]))
        };
        program.needed = value(elf::DT_NEEDED).iter().filter_map(string).collect();
        program.runpath = value(elf::DT_RUNPATH).iter().filter_map(string).collect();
    }
    Some(program)
}

impl Program {
    /// The file that the loader finds under a name, in the order of ld.so(8): RUNPATH, then the C library's default
    /// directories.
    pub fn library(&self, root: &Path, name: &str) -> Option<PathBuf> {
        let triplet = match self.machine {
            elf::EM_AARCH64 => "aarch64-linux-gnu",
            _ => "x86_64-linux-gnu",
        };
        let own = self.runpath.iter().flat_map(|path| path.split(':')).map(str::to_owned);
        let usual = ["/lib", "/usr/lib", "/usr/local/lib", "/lib64", "/usr/lib64"].map(str::to_owned);
        let multiarch = [format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")];
        own.chain(multiarch)
            .chain(usual)
            .map(|dir| root.join(dir.trim_start_matches('/')).join(name))
            .find(|p| p.is_file())
    }
}
