//! What a program prints, up to a limit.

use std::borrow::Cow;

use monty_types::{MontyException, PrintWriter, PrintWriterCallback};
use serde::{Deserialize, Serialize};

/// Captured output. What is over the limit is dropped and the cut is marked, because printing
/// too much is no reason to fail.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Printed {
    text: String,
    limit: usize,
    is_cut: bool,
}

impl Printed {
    pub(super) fn new(limit_bytes: u64) -> Self {
        let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Self { text: String::new(), limit, is_cut: false }
    }

    pub(super) fn writer(&mut self) -> PrintWriter<'_> {
        PrintWriter::Callback(self)
    }

    pub(super) fn into_text(mut self) -> String {
        if self.is_cut {
            let mark = format!("\n[output cut at max_output_bytes = {}]\n", self.limit);
            self.text.push_str(&mark);
        }
        self.text
    }

    /// Adds what was printed later.
    pub(super) fn append(&mut self, later: &Self) {
        self.push(&later.text);
        self.is_cut |= later.is_cut;
    }

    fn push(&mut self, text: &str) {
        if self.is_cut {
            return;
        }
        let room = self.limit - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
        } else {
            self.text.push_str(&text[..text.floor_char_boundary(room)]);
            self.is_cut = true;
        }
    }
}

impl PrintWriterCallback for Printed {
    fn stdout_write(&mut self, output: Cow<'_, str>) -> Result<(), MontyException> {
        self.push(&output);
        Ok(())
    }

    fn stdout_push(&mut self, end: char) -> Result<(), MontyException> {
        self.push(end.encode_utf8(&mut [0; 4]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_limit_is_cut_at_a_character_and_marked() {
        let mut printed = Printed::new(5);
        printed.push("abcd");
        printed.push("üx");
        printed.push("y");
        assert_eq!(printed.into_text(), "abcd\n[output cut at max_output_bytes = 5]\n");
        let mut printed = Printed::new(5);
        printed.push("abcde");
        assert_eq!(printed.into_text(), "abcde");
    }
}
