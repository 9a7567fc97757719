//! The body of a worker process.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
    thread,
};

use crate::{memory::Memory, protocol::read_frame, worker::Worker};

/// Deep recursion is the interpreter's business up to its own limit; this is what it needs.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// Serves one [`Pool`](crate::Pool) as a worker: requests on standard input, replies on standard
/// output, until the input ends. Call it first thing in `main`, before anything is printed.
///
/// The process belongs to its parent: it ends when the parent does.
pub fn worker_main() -> ExitCode {
    // A busy worker doesn't read, so the end of its input alone would not stop it.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let served = take_protocol_streams().and_then(|(input, output)| {
        let interpreter = thread::Builder::new().name("interpreter".to_owned());
        let running = interpreter.stack_size(STACK_BYTES).spawn(move || serve(input, output))?;
        running.join().unwrap_or_else(|_| Err(io::Error::other("the worker panicked")))
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // The parent is gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Moves the protocol away from the standard streams, so that nothing else can write to it.
fn take_protocol_streams() -> io::Result<(File, File)> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((input, output))
}

fn serve(input: File, mut output: File) -> io::Result<()> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut worker = Worker::new(Memory::of_process());
    output.write_all(&Worker::hello()?)?;
    let mut frame = Vec::new();
    while read_frame(&mut input, &mut frame)? {
        if let Some(reply) = worker.handle(&frame)? {
            output.write_all(&reply)?;
        }
        // One large request must not count against all later ones.
        if frame.capacity() > 1 << 20 {
            frame = Vec::new();
        }
    }
    Ok(())
}
