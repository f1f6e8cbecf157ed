//! The command line.

use std::io::Write as _;
use std::process::ExitCode;

use frr_supervisor::config::{self, Config, WithFile, file};
use frr_supervisor::frr::{self, Inputs, Version, state};
use frr_supervisor::model::{FilePath, IfName, Value as _};
use frr_supervisor::node::{load_accepted, single_problem};
use frr_supervisor::signals::Signals;
use frr_supervisor::{logging, plan, run, status};
use lexopt::Arg::{Long, Short, Value};

const USAGE: &str = "\
Usage: frr-supervisor [run | check | render | plan | schema | status [--json] [--watch]] [--help] [--version]

  run     set the node up and run the FRR daemons (default)
  check   read the configuration and print its problems
  render  print the frr.conf of the configuration, with the names fabric0, fabric1 … for the fabric
          interfaces, because only the node knows their real names
  plan    print what the configuration would change on this node: kernel changes and FRR commands, in
          order, without passwords. It touches nothing. Exit codes: 0 nothing, 2 something, 1 an error
  schema  print the JSON Schema of the file that CONFIG_FILE names
  status  print the status of the node; exit codes: 0 healthy, 1 degraded, 3 down or not running.
          --json prints /run/frr/status.json, --watch prints the status whenever it changes

The configuration is read from environment variables; an empty variable counts as unset:

";

/// Exit code of `plan` if something would change.
const HAS_CHANGES: u8 = 2;

enum Command {
    /// A command that reads the configuration.
    WithConfig(ConfigCommand),
    Status(status::PrintOptions),
}

enum ConfigCommand {
    Run,
    Check,
    Render,
    Plan,
}

fn main() -> ExitCode {
    match parse_args() {
        Ok(Some(Command::Status(options))) => status::print(options),
        Ok(Some(Command::WithConfig(command))) => execute(&command),
        Ok(None) => ExitCode::SUCCESS,
        Err(e) => {
            print_error(format_args!("{e}; see --help"));
            ExitCode::from(2)
        }
    }
}

/// Parses the command line. `None`: the output is printed already.
fn parse_args() -> Result<Option<Command>, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let mut command = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                print(&format!("{USAGE}{}", config::help_text()));
                return Ok(None);
            }
            Short('V') | Long("version") => {
                print(concat!("frr-supervisor ", env!("CARGO_PKG_VERSION"), "\n"));
                return Ok(None);
            }
            Long(word @ ("json" | "watch")) => {
                let Some(Command::Status(options)) = &mut command else {
                    return Err(format!("--{word} is an option of status").into());
                };
                if word == "json" {
                    options.json = true;
                } else {
                    options.watch = true;
                }
            }
            Value(word) if command.is_none() => {
                command = Some(match word.to_str() {
                    Some("run") => Command::WithConfig(ConfigCommand::Run),
                    Some("check") => Command::WithConfig(ConfigCommand::Check),
                    Some("render") => Command::WithConfig(ConfigCommand::Render),
                    Some("plan") => Command::WithConfig(ConfigCommand::Plan),
                    Some("status") => Command::Status(status::PrintOptions::default()),
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
    Ok(Some(command.unwrap_or(Command::WithConfig(ConfigCommand::Run))))
}

fn execute(command: &ConfigCommand) -> ExitCode {
    // First of all: the kernel drops a signal to PID 1 that has no handler.
    let signals = matches!(command, ConfigCommand::Run).then(Signals::catch);
    let base = match config::from_vars(std::env::vars_os()) {
        Ok(base) => base,
        Err(problems) => {
            for problem in &problems {
                print_error(problem);
            }
            if matches!(command, ConfigCommand::Check) {
                file_problems().iter().for_each(print_error);
            }
            return ExitCode::FAILURE;
        }
    };
    let (accepted, lost) = match command {
        ConfigCommand::Run | ConfigCommand::Plan => load_accepted(&base),
        ConfigCommand::Check | ConfigCommand::Render => Default::default(),
    };
    let WithFile { config, problems, .. } = base.with_file(&accepted);
    let problems: Vec<String> = lost.into_iter().chain(problems.iter().map(ToString::to_string)).collect();
    let config = match config {
        Ok(config) => config,
        Err(problem) => {
            problems.iter().for_each(print_error);
            print_error(problem);
            return ExitCode::FAILURE;
        }
    };
    let warning = config.settings.config_file.as_ref().and_then(file::empty_directory_warning);
    let result = match command {
        ConfigCommand::Run => {
            logging::start(config.settings.log_level, config.settings.log_format);
            warning.iter().for_each(|warning| log::warn!("{warning}"));
            let signals = signals.unwrap_or_else(Signals::catch).map_err(single_problem);
            signals.and_then(|signals| run::run(&base, config, &problems, signals))
        }
        ConfigCommand::Check => {
            warning.iter().for_each(print_error);
            let problems = [render(&config).err().unwrap_or_default(), problems].concat();
            require_none(problems).map(|()| print("configuration: no problem found\n"))
        }
        ConfigCommand::Render => render(&config).and_then(|text| {
            print(&text);
            require_none(problems)
        }),
        ConfigCommand::Plan => match plan::preview(&config) {
            Err(e) => Err([e, problems].concat()),
            Ok(preview) => {
                print(&preview.to_text());
                // What is invalid is left out, and everything else would be applied.
                problems.iter().chain(&preview.problems).for_each(print_error);
                return ExitCode::from(if preview.has_changes() { HAS_CHANGES } else { 0 });
            }
        },
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in &problems {
                if matches!(command, ConfigCommand::Run) {
                    log::error!("{problem}");
                } else {
                    print_error(problem);
                }
            }
            ExitCode::FAILURE
        }
    };
    logging::finish();
    code
}

/// An error if there are problems.
fn require_none(problems: Vec<String>) -> Result<(), Vec<String>> {
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The problems of the file that can be found without a configuration from the environment, which is invalid.
fn file_problems() -> Vec<config::ConfigProblem> {
    let path = std::env::var("CONFIG_FILE").ok();
    let path = path.and_then(|path| FilePath::parse(path.trim()).ok());
    path.map_or_else(Vec::new, |path| file::check_without_config(&path))
}

/// The frr.conf of a node whose interfaces are not known.
fn render(config: &Config) -> Result<String, Vec<String>> {
    let template = state::template(config).map_err(|e| vec![e])?;
    let ports: Vec<IfName> = (0..config.fabric_macs.len())
        .map(|i| IfName::parse(&format!("fabric{i}")))
        .collect::<Result<_, _>>()
        .map_err(|e| vec![e.to_string()])?;
    let inputs = Inputs {
        config,
        ports: &ports,
        node_ip_is_local: config.settings.netns.as_deref().is_none(),
        port_addresses: &[],
        version: Version::NEWEST,
    };
    frr::render(&inputs, template.as_deref()).map_err(|e| vec![e])
}

/// Prints to standard error. Ignores a closed pipe.
fn print_error(problem: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "frr-supervisor: {problem}");
}

/// Prints to standard output. Ignores a closed pipe.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
