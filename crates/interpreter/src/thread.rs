//! A worker on a thread of the parent, for trusted code: nothing limits its memory, and nothing
//! can stop it but the interpreter's own checks.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use crate::{
    child::STACK_BYTES, memory::Memory, process::Death, scheduler::Events, worker::Worker,
};

/// The way to a worker thread; the thread ends when it is dropped.
pub(crate) struct ThreadLink {
    frames: Sender<Vec<u8>>,
}

impl ThreadLink {
    /// Starts a worker thread.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(crate) fn start(events: Events) -> io::Result<Self> {
        let (sender, frames) = mpsc::channel();
        thread::Builder::new()
            .name("interpreter".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&frames, &events))?;
        Ok(Self { frames: sender })
    }

    /// Sends frames, each with its length in front, as a pipe would carry them.
    pub(crate) fn send(&self, bytes: &[u8]) {
        // A thread that has ended reports it itself.
        let _ = self.frames.send(bytes.to_vec());
    }
}

fn serve(frames: &Receiver<Vec<u8>>, events: &Events) {
    let mut worker = Worker::new(Memory::Unlimited);
    let ended = answer_all(&mut worker, frames, events);
    let why =
        ended.err().map_or_else(|| "the pool is closed".to_owned(), |error| error.to_string());
    events.died(&Death::Unknown(why));
}

fn answer_all(worker: &mut Worker, frames: &Receiver<Vec<u8>>, events: &Events) -> io::Result<()> {
    let mut frame = Vec::new();
    let hello = Worker::hello()?;
    events.frame(&hello[4..]);
    for bytes in frames {
        let mut bytes = bytes.as_slice();
        while crate::protocol::read_frame(&mut bytes, &mut frame)? {
            if let Some(reply) = worker.handle(&frame)?
                && !events.frame(&reply[4..])
            {
                return Err(io::Error::other("the reply was refused"));
            }
        }
    }
    Ok(())
}
