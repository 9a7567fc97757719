//! `durable`: runs durable workflows from the command line, and looks after them.

mod args;
mod checkpoints;
mod database;
mod doctor;
mod events;
mod exit;
mod follow;
mod functions;
mod inputs;
mod interrupts;
mod list;
mod migrate;
mod operate;
mod portable;
mod progress;
mod rekey;
mod run;
mod serve;
mod show;
mod text;
mod time;
mod token;
mod worker;
mod workers;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use exit::Exit;

// Bounds the memory of program code when this executable is started as an interpreter worker.
#[global_allocator]
static ALLOCATOR: durable::LimitedAllocator = durable::LimitedAllocator;

fn main() -> ExitCode {
    durable::run_worker_if_asked();
    let args = Args::parse();
    log_to_stderr(args.verbose);
    let exit = dispatch(args).unwrap_or_else(|error| {
        text::complain(&format!("{error:#}"));
        Exit::of_error(&error)
    });
    exit.into()
}

fn dispatch(args: Args) -> anyhow::Result<Exit> {
    let url = &args.db;
    match args.command {
        Command::Run(command) => run::run(url, &command),
        Command::Start(command) => run::start(url, &command),
        Command::Worker(command) => worker::worker(url, &command),
        Command::Workers(command) => workers::workers(url, &command),
        Command::Serve(command) => serve::serve(url, &command),
        Command::Token(command) => token::token(url, &command),
        Command::Resume(command) => run::resume(url, &command),
        Command::Checkpoints(command) => checkpoints::checkpoints(url, &command),
        Command::List(command) => list::list(url, &command),
        Command::Show(command) => show::show(url, &command),
        Command::Events(command) => events::events(url, &command),
        Command::Cancel(command) => operate::cancel(url, &command),
        Command::Pause(command) => operate::pause(url, &command),
        Command::Retry(command) => operate::retry(url, &command),
        Command::Delete(command) => operate::delete(url, &command),
        Command::Export(command) => portable::export(url, &command),
        Command::Import(command) => portable::import(url, &command),
        Command::Copy(command) => portable::copy(&command),
        Command::Rekey(command) => rekey::rekey(url, &command),
        Command::Migrate(command) => migrate::migrate(url, &command),
        Command::Doctor(command) => doctor::doctor(url, &command),
    }
}

/// `RUST_LOG` decides what is logged; without it `-v` does.
fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(verbose > 0)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
