//! Reads JSON text token by token.
//!
//! Its own reader, because the mapping needs what `serde_json::Value` drops: integers of any
//! size, the difference between `1` and `1.0`, the order of keys, and a look ahead that tells a
//! tag from an ordinary object.

use super::{DecodeError, MAX_DEPTH};

pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// The first token of a value.
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    Integer(&'a str),
    Float(f64),
    String(String),
    /// `[`: call [`Reader::next_item`] next.
    Array,
    /// `{`: call [`Reader::next_key`] next.
    Object,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    pub(super) fn error<T>(&self, what: impl Into<String>) -> Result<T, DecodeError> {
        Err(DecodeError::new(self.at, what.into()))
    }

    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let blank = rest.iter().take_while(|byte| b" \t\r\n".contains(byte)).count();
        self.at += blank;
        rest.get(blank).copied()
    }

    fn take(&mut self, expected: u8) -> Result<(), DecodeError> {
        if self.peek() != Some(expected) {
            return self.error(format!("expected '{}'", char::from(expected)));
        }
        self.at += 1;
        Ok(())
    }

    /// Checks that nothing but blanks is left.
    pub(super) fn finish(mut self) -> Result<(), DecodeError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.error("expected the end of the text"),
        }
    }

    pub(super) fn token(&mut self) -> Result<Token<'a>, DecodeError> {
        match self.peek() {
            Some(b'n') => self.word("null", Token::Null),
            Some(b't') => self.word("true", Token::Bool(true)),
            Some(b'f') => self.word("false", Token::Bool(false)),
            Some(b'"') => self.string().map(Token::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'[') => self.open(Token::Array),
            Some(b'{') => self.open(Token::Object),
            Some(_) => self.error("expected a value"),
            None => self.error("the text ends where a value is expected"),
        }
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Result<Token<'a>, DecodeError> {
        if !self.text[self.at..].starts_with(word) {
            return self.error("expected a value");
        }
        self.at += word.len();
        Ok(token)
    }

    fn open(&mut self, token: Token<'a>) -> Result<Token<'a>, DecodeError> {
        if self.depth == MAX_DEPTH {
            return self.error(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.depth += 1;
        self.at += 1;
        Ok(token)
    }

    /// Whether another item of the array follows; moves to it, or past the `]`.
    pub(super) fn next_item(&mut self, is_first: bool) -> Result<bool, DecodeError> {
        self.next(is_first, b']')
    }

    /// The next key of the object, with its `:` taken; `None` past the `}`.
    pub(super) fn next_key(&mut self, is_first: bool) -> Result<Option<String>, DecodeError> {
        if !self.next(is_first, b'}')? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return self.error("expected a key");
        }
        let key = self.string()?;
        self.take(b':')?;
        Ok(Some(key))
    }

    fn next(&mut self, is_first: bool, close: u8) -> Result<bool, DecodeError> {
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(b',') if !is_first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if is_first => Ok(true),
            _ => self.error(format!("expected ',' or '{}'", char::from(close))),
        }
    }

    /// Whether the value that follows is the last of the object it stands in.
    pub(super) fn is_last_value(&self) -> Result<bool, DecodeError> {
        let mut ahead = Reader { text: self.text, at: self.at, depth: self.depth };
        ahead.skip_value()?;
        Ok(ahead.peek() == Some(b'}'))
    }

    /// Moves past a value by its brackets and quotes alone; what it holds is checked when it is
    /// read.
    fn skip_value(&mut self) -> Result<(), DecodeError> {
        let mut open = 0usize;
        loop {
            match self.peek() {
                None => return self.error("the text ends inside a value"),
                Some(b'"') => self.at += self.string_len()?,
                Some(b'[' | b'{') => {
                    open += 1;
                    self.at += 1;
                }
                Some(b']' | b'}') if open > 0 => {
                    open -= 1;
                    self.at += 1;
                }
                Some(b',' | b':') if open > 0 => self.at += 1,
                Some(_) => {
                    let rest = &self.text.as_bytes()[self.at..];
                    let word = rest.iter().take_while(|byte| !b",:]}[{\" \t\r\n".contains(byte));
                    match word.count() {
                        0 => return self.error("expected a value"),
                        len => self.at += len,
                    }
                }
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Length of the string literal here, quotes included.
    fn string_len(&self) -> Result<usize, DecodeError> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut len = 1;
        loop {
            match rest.get(len) {
                Some(b'"') => return Ok(len + 1),
                Some(b'\\') => len += 2,
                Some(_) => len += 1,
                None => return self.error("a string has no end"),
            }
        }
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let len = self.string_len()?;
        let literal = &self.text[self.at..self.at + len];
        let text = serde_json::from_str(literal)
            .or_else(|error| self.error(format!("not a string: {error}")))?;
        self.at += len;
        Ok(text)
    }

    fn number(&mut self) -> Result<Token<'a>, DecodeError> {
        let rest = &self.text[self.at..];
        let is_part = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        let len = rest.bytes().take_while(|&byte| is_part(byte)).count();
        let literal = &rest[..len];
        // serde_json knows the grammar; only the interpretation is ours.
        if serde_json::from_str::<serde::de::IgnoredAny>(literal).is_err() {
            return self.error("not a number");
        }
        self.at += len;
        if literal.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            return Ok(Token::Integer(literal));
        }
        match literal.parse() {
            Ok(number) => Ok(Token::Float(number)),
            Err(_) => self.error("not a number"),
        }
    }
}
