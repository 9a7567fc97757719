//! What parent and worker say to each other, and the framing.
//!
//! A frame is a little-endian `u32` length and that many bytes of postcard. The parent sends
//! [`ToWorker`] frames; the worker says [`FromWorker::Hello`] once and then answers every
//! [`ToWorker::Advance`], [`ToWorker::Validate`] and [`ToWorker::Inspect`] with one frame, in order.
//! The other frames are not answered.
//!
//! These types mirror those of `durable-core` because postcard is not self-describing: it
//! can't carry types that skip fields.

use std::io::{self, Read};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Grows with every change of the types in this file.
pub(crate) const PROTOCOL_VERSION: u32 = 4;

/// No frame is larger. Payloads, snapshots and sources have limits of their own well below.
pub(crate) const MAX_FRAME_BYTES: usize = 1 << 30;

/// Bytes that postcard copies at once instead of one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = &'de [u8];

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_borrowed_bytes<E: de::Error>(self, bytes: &'de [u8]) -> Result<&'de [u8], E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Visitor).map(Bytes)
    }
}

/// Names a program between one pool and its workers: shorter than the program's id.
pub(crate) type ProgramKey = u32;

/// The 128 bits of an execution's id.
pub(crate) type ExecutionKey = u128;

/// A frame from the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker<'a> {
    /// The first frame: how many live states to keep.
    Configure { live: u32 },
    /// Keep this program; the text is the canonical JSON of its definition.
    Program { key: ProgramKey, definition: &'a str },
    /// Forget this program.
    DropProgram { key: ProgramKey },
    /// Keep this dictionary of a program, in place of any older one.
    Dictionary { key: ProgramKey, id: u64, bytes: Bytes<'a> },
    /// Drop the live state of an execution.
    Forget { execution: ExecutionKey },
    /// Run.
    #[serde(borrow)]
    Advance(WireAdvance<'a>),
    /// Check a program.
    Validate { key: ProgramKey },
    /// Run, and tell what can be seen then instead of keeping it.
    #[serde(borrow)]
    Inspect(WireAdvance<'a>),
}

/// One advance; see `durable_core::Advance`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireAdvance<'a> {
    pub(crate) execution: ExecutionKey,
    pub(crate) program: ProgramKey,
    /// The dictionary to compress a snapshot against; without it the dump comes back as it is.
    pub(crate) dictionary: Option<u64>,
    #[serde(borrow)]
    pub(crate) base: WireBase<'a>,
    #[serde(borrow)]
    pub(crate) groups: Vec<WireGroup<'a>>,
    pub(crate) next: WireToken,
}

/// Epoch and version of a state.
pub(crate) type WireToken = (u64, u64);

/// From where to go on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireBase<'a> {
    Start {
        inputs: &'a str,
        seed: u64,
        now_ms: i64,
    },
    /// What [`WireState::Packed`] held, its seal already checked.
    Snapshot {
        dictionary: Option<u64>,
        raw_len: u32,
        packed: Bytes<'a>,
    },
    Live(WireToken),
}

/// What is applied together; see `durable_core::Group`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireGroup<'a> {
    pub(crate) now_ms: i64,
    #[serde(borrow)]
    pub(crate) variables: Vec<WireAssignment<'a>>,
    #[serde(borrow)]
    pub(crate) results: Vec<(u32, WireOutcome<'a>)>,
}

/// See `durable_core::Assignment`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireAssignment<'a> {
    pub(crate) task: u32,
    pub(crate) depth: u32,
    pub(crate) function: &'a str,
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
}

/// What came of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireOutcome<'a> {
    Completed(&'a str),
    Failed { error_type: &'a str, message: &'a str },
}

/// A frame from a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker<'a> {
    /// The first frame of a worker.
    Hello { protocol: u32 },
    /// The answer to [`ToWorker::Advance`].
    Advanced {
        #[serde(borrow)]
        answer: WireAnswer<'a>,
        /// Live states that had to make room since the last answer.
        evicted: Vec<ExecutionKey>,
    },
    /// The answer to [`ToWorker::Validate`]: the problems found, as one text.
    Validated(Result<(), String>),
    /// The answer to [`ToWorker::Inspect`]: a `durable_core::Inspection` as JSON, or a sentence.
    Inspected(Result<String, String>),
}

/// See `durable_core::Advanced`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireAnswer<'a> {
    #[serde(borrow)]
    Reached(WireReached<'a>),
    NotLive,
    BadSnapshot(String),
    Lost(String),
}

/// See `durable_core::Reached`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireReached<'a> {
    pub(crate) calls: Vec<Vec<WireCall>>,
    pub(crate) printed: String,
    #[serde(borrow)]
    pub(crate) end: WireEnd<'a>,
}

/// See `durable_core::NewCall`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WireCall {
    pub(crate) id: u32,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) request: WireRequest,
}

/// See `durable_core::Request`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum WireRequest {
    Function {
        name: String,
        args: String,
        kwargs: String,
        retry: Option<durable_core::RetryPolicy>,
        timeout_ms: Option<u64>,
    },
    Timer {
        delay_ms: u64,
    },
    Feed {
        last: String,
        number: u32,
    },
}

/// See `durable_core::End`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireEnd<'a> {
    Suspended {
        #[serde(borrow)]
        state: Option<WireState<'a>>,
    },
    Completed(String),
    Failed(WireFailure),
}

/// A state to be sealed by the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WireState<'a> {
    /// As it was dumped: the request named no dictionary.
    Raw(#[serde(borrow)] Bytes<'a>),
    /// Compressed against the dictionary that the request named.
    Packed {
        raw_len: u32,
        #[serde(borrow)]
        packed: Bytes<'a>,
    },
}

/// See `durable_core::Failure`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct WireFailure {
    pub(crate) error_type: String,
    pub(crate) message: String,
    pub(crate) traceback: Option<String>,
    pub(crate) cause_call: Option<u32>,
}

impl WireFailure {
    pub(crate) fn new(error_type: &str, message: impl Into<String>) -> Self {
        Self {
            error_type: error_type.to_owned(),
            message: message.into(),
            traceback: None,
            cause_call: None,
        }
    }
}

/// Encodes `message` as one frame.
///
/// # Errors
/// `InvalidInput` when the frame would be larger than [`MAX_FRAME_BYTES`].
pub(crate) fn encode_frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(message, vec![0; 4])
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let len = frame.len() - 4;
    if len > MAX_FRAME_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {len} bytes is larger than {MAX_FRAME_BYTES}"),
        ));
    }
    frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
    Ok(frame)
}

/// Reads one frame into `buffer`, replacing what it held; `false` at a clean end of the stream.
///
/// # Errors
/// Those of the stream; `InvalidData` when the length is above [`MAX_FRAME_BYTES`].
pub(crate) fn read_frame(input: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut header = [0; 4];
    match input.read_exact(&mut header) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let len = u32::from_le_bytes(header) as usize;
    if len > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too large"));
    }
    buffer.clear();
    // `take` + `read_to_end` grows with what really arrives, not with what the header claims.
    let read = input.take(len as u64).read_to_end(buffer)?;
    if read < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_torn_frames_are_errors() {
        let mut out = encode_frame(&ToWorker::Program { key: 7, definition: "{}" }).unwrap();
        let dictionary = ToWorker::Dictionary { key: 7, id: 9, bytes: Bytes(b"abc") };
        out.extend(encode_frame(&dictionary).unwrap());
        let mut buffer = Vec::new();
        let mut input = out.as_slice();
        assert!(read_frame(&mut input, &mut buffer).unwrap());
        assert!(matches!(
            postcard::from_bytes(&buffer).unwrap(),
            ToWorker::Program { key: 7, definition: "{}" }
        ));
        assert!(read_frame(&mut input, &mut buffer).unwrap());
        assert!(matches!(
            postcard::from_bytes(&buffer).unwrap(),
            ToWorker::Dictionary { key: 7, id: 9, bytes: Bytes(b"abc") }
        ));
        assert!(!read_frame(&mut input, &mut buffer).unwrap());
        assert!(read_frame(&mut &out[..out.len() - 1], &mut buffer).is_ok());
        assert!(read_frame(&mut &out[..6], &mut buffer).is_err());
        assert!(read_frame(&mut &[0xff; 8][..], &mut buffer).is_err());
    }
}
