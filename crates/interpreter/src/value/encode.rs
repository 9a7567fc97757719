//! Python values to JSON text.

use std::io::Write as _;

use monty_types::{
    CallArgs, MontyDateTime, MontyObject, MontyTime,
    unstable::{self, MontyGraph, MontyNode, NodeId},
};
use num_bigint::BigInt;

use super::{MAX_DEPTH, MAX_INT_DIGITS, base64, is_reserved, iso};

/// Why a value has no JSON form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is of a kind that has no meaning outside the program.
    #[error("{0}")]
    Unsupported(String),
    /// It is nested too deeply, contains itself, or holds an integer that is too long.
    #[error("{0}")]
    Shape(String),
    /// Its JSON text is larger than the limit.
    #[error(
        "the value has {}{size} bytes as JSON, the limit max_payload_bytes is {limit}: \
         store large data elsewhere and pass a reference to it",
        if *.is_counted { "" } else { "more than " }
    )]
    TooLarge {
        /// Its size, or as far as it was counted.
        size: usize,
        /// The limit.
        limit: usize,
        /// Whether all of it was counted.
        is_counted: bool,
    },
}

/// How far past the limit a size is still counted: shared parts can make the text of a small
/// value exponentially large.
const COUNT_FACTOR: usize = 4;

/// Writes a value as JSON text of at most `max_bytes` bytes.
///
/// # Errors
/// [`EncodeError`], with a message for the author of the program.
///
/// ```
/// use durable_interpreter::value;
/// use monty_types::MontyObject;
/// let value = MontyObject::tuple([MontyObject::int(1), MontyObject::float(1.0)]);
/// assert_eq!(value::encode(&value, 100)?, r#"{"$tuple":[1,1.0]}"#);
/// assert!(value::encode(&value, 10).is_err());
/// # Ok::<(), value::EncodeError>(())
/// ```
pub fn encode(value: &MontyObject, max_bytes: usize) -> Result<String, EncodeError> {
    let (graph, root) = unstable::graph_parts(value);
    let mut encoder = Encoder::new(graph, max_bytes);
    encoder.node(root)?;
    encoder.finish()
}

/// Writes the arguments of a call: a plain array, and a plain object without the keys that
/// `is_reserved` names. The array and the object are never tags themselves.
///
/// # Errors
/// [`EncodeError`]; `max_bytes` bounds both together.
pub fn encode_args(
    args: &CallArgs,
    is_reserved: impl Fn(&str) -> bool,
    max_bytes: usize,
) -> Result<(String, String), EncodeError> {
    let (graph, positional, keywords) = unstable::call_args_parts(args);
    let mut encoder = Encoder::new(graph, max_bytes);
    encoder.array(positional)?;
    let array_len = encoder.out.len();
    let named = keywords.iter().filter_map(|(key, value)| match graph.node(*key) {
        MontyNode::String(name) if !is_reserved(name) => Some((name.as_str(), *value)),
        _ => None,
    });
    encoder.object(named)?;
    let mut array = encoder.finish()?;
    let object = array.split_off(array_len);
    Ok((array, object))
}

struct Encoder<'a> {
    graph: &'a MontyGraph,
    out: Vec<u8>,
    depth: usize,
    limit: usize,
}

type Encoded = Result<(), EncodeError>;

impl<'a> Encoder<'a> {
    fn new(graph: &'a MontyGraph, limit: usize) -> Self {
        Self { graph, out: Vec::with_capacity(64), depth: 0, limit }
    }

    fn finish(self) -> Result<String, EncodeError> {
        if self.out.len() > self.limit {
            return Err(self.too_large(true));
        }
        String::from_utf8(self.out)
            .map_err(|error| EncodeError::Shape(format!("the text is not UTF-8: {error}")))
    }

    fn too_large(&self, is_counted: bool) -> EncodeError {
        EncodeError::TooLarge { size: self.out.len(), limit: self.limit, is_counted }
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &str) -> Encoded {
        serde_json::to_writer(&mut self.out, text)
            .map_err(|error| EncodeError::Shape(error.to_string()))
    }

    fn enter(&mut self) -> Encoded {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(EncodeError::Shape(format!(
                "the value is nested too deeply: its JSON form may have {MAX_DEPTH} levels"
            )));
        }
        if self.out.len() > self.limit.saturating_mul(COUNT_FACTOR) {
            return Err(self.too_large(false));
        }
        Ok(())
    }

    fn items<T>(
        &mut self,
        brackets: [&str; 2],
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Encoded,
    ) -> Encoded {
        self.enter()?;
        self.raw(brackets[0]);
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.raw(",");
            }
            write(self, item)?;
        }
        self.raw(brackets[1]);
        self.depth -= 1;
        Ok(())
    }

    fn array(&mut self, items: &[NodeId]) -> Encoded {
        self.items(["[", "]"], items, |this, item| this.node(*item))
    }

    fn object<'k>(&mut self, items: impl Iterator<Item = (&'k str, NodeId)>) -> Encoded {
        self.items(["{", "}"], items, |this, (key, value)| {
            this.string(key)?;
            this.raw(":");
            this.node(value)
        })
    }

    fn tagged(&mut self, tag: &str, body: impl FnOnce(&mut Self) -> Encoded) -> Encoded {
        self.enter()?;
        self.raw("{\"");
        self.raw(tag);
        self.raw("\":");
        body(self)?;
        self.raw("}");
        self.depth -= 1;
        Ok(())
    }

    fn tagged_text(&mut self, tag: &str, text: &str) -> Encoded {
        self.tagged(tag, |this| this.string(text))
    }

    fn node(&mut self, id: NodeId) -> Encoded {
        let graph = self.graph;
        match graph.node(id) {
            MontyNode::None => self.raw("null"),
            MontyNode::Bool(true) => self.raw("true"),
            MontyNode::Bool(false) => self.raw("false"),
            MontyNode::Int(number) => {
                let _ = write!(self.out, "{number}");
            }
            MontyNode::Float(number) => return self.float(*number),
            MontyNode::String(text) => return self.string(text),
            MontyNode::List(items) => return self.array(items),
            MontyNode::Dict(pairs) => return self.dict(pairs),
            MontyNode::Tuple(items) => return self.tagged("$tuple", |this| this.array(items)),
            MontyNode::Set(items) => return self.tagged("$set", |this| this.array(items)),
            MontyNode::FrozenSet(items) => {
                return self.tagged("$frozenset", |this| this.array(items));
            }
            MontyNode::NamedTuple { type_name, field_names, values } => {
                let fields = field_names.iter().map(String::as_str).zip(values.iter().copied());
                return self.record("$namedtuple", type_name, fields);
            }
            MontyNode::ClassInstance { class_type, attrs, .. } => {
                return self.instance(*class_type, attrs);
            }
            leaf => return self.leaf(leaf),
        }
        Ok(())
    }

    fn float(&mut self, number: f64) -> Encoded {
        if number.is_finite() {
            // Always with a fraction or an exponent, and the shortest that reads back the same.
            let _ = write!(self.out, "{number:?}");
            return Ok(());
        }
        let name = match (number.is_nan(), number > 0.0) {
            (true, _) => "nan",
            (false, true) => "inf",
            (false, false) => "-inf",
        };
        self.tagged_text("$float", name)
    }

    fn dict(&mut self, pairs: &[(NodeId, NodeId)]) -> Encoded {
        let graph = self.graph;
        let key_of = |id: NodeId| match graph.node(id) {
            MontyNode::String(key) => Some(key.as_str()),
            _ => None,
        };
        let is_plain = match pairs {
            [(key, _)] => key_of(*key).is_some_and(|key| !is_reserved(key)),
            _ => pairs.iter().all(|(key, _)| key_of(*key).is_some()),
        };
        if is_plain {
            return self.object(
                pairs.iter().filter_map(|(key, value)| key_of(*key).map(|key| (key, *value))),
            );
        }
        self.tagged("$dict", |this| {
            this.items(["[", "]"], pairs, |this, (key, value)| this.array(&[*key, *value]))
        })
    }

    fn record<'k>(
        &mut self,
        tag: &str,
        name: &str,
        fields: impl Iterator<Item = (&'k str, NodeId)>,
    ) -> Encoded {
        self.tagged(tag, |this| {
            this.enter()?;
            this.raw("{\"name\":");
            this.string(name)?;
            this.raw(",\"fields\":");
            this.object(fields)?;
            this.raw("}");
            this.depth -= 1;
            Ok(())
        })
    }

    fn instance(&mut self, class: NodeId, attrs: &[(NodeId, NodeId)]) -> Encoded {
        let graph = self.graph;
        let is_dataclass =
            matches!(graph.node(class), MontyNode::ClassType(class) if class.is_dataclass);
        let name = match graph.node(class) {
            MontyNode::ClassType(class) => class.name.as_str(),
            _ => "object",
        };
        let fields = attrs.iter().filter_map(|(key, value)| match graph.node(*key) {
            MontyNode::String(key) => Some((key.as_str(), *value)),
            _ => None,
        });
        self.record(if is_dataclass { "$dataclass" } else { "$object" }, name, fields)
    }

    fn leaf(&mut self, node: &MontyNode) -> Encoded {
        match node {
            MontyNode::BigInt(number) => self.big_int(number),
            MontyNode::Complex(number) => self.tagged("$complex", |this| {
                this.items(["[", "]"], [number.real, number.imag], Self::float)
            }),
            MontyNode::Decimal(text) => self.tagged_text("$decimal", text),
            MontyNode::Bytes(bytes) => self.tagged("$bytes", |this| {
                this.raw("\"");
                base64::encode(bytes, &mut this.out);
                this.raw("\"");
                Ok(())
            }),
            MontyNode::Path(path) => self.tagged_text("$path", path),
            MontyNode::Date(date) => {
                let mut text = String::new();
                iso::write_date(date, &mut text);
                self.tagged_text("$date", &text)
            }
            MontyNode::DateTime(value) => self.datetime(value),
            MontyNode::Time(value) => self.time(value),
            MontyNode::TimeDelta(delta) => self.tagged("$timedelta", |this| {
                let _ =
                    write!(this.out, "[{},{},{}]", delta.days, delta.seconds, delta.microseconds);
                Ok(())
            }),
            MontyNode::TimeZone(zone) => self.tagged("$timezone", |this| {
                let Some(name) = &zone.name else {
                    let _ = write!(this.out, "{}", zone.offset_seconds);
                    return Ok(());
                };
                let _ = write!(this.out, "[{},", zone.offset_seconds);
                this.string(name)?;
                this.raw("]");
                Ok(())
            }),
            MontyNode::Exception { exc_type, arg } => self.tagged("$exception", |this| {
                this.raw("{\"type\":");
                this.string((*exc_type).into())?;
                this.raw(",\"message\":");
                match arg {
                    Some(message) => this.string(message)?,
                    None => this.raw("null"),
                }
                this.raw("}");
                Ok(())
            }),
            MontyNode::Ellipsis => self.tagged("$ellipsis", |this| {
                this.raw("null");
                Ok(())
            }),
            other => Err(unsupported(other)),
        }
    }

    fn big_int(&mut self, number: &BigInt) -> Encoded {
        // A decimal digit carries 3.32 bits.
        if number.bits() > MAX_INT_DIGITS as u64 * 10 / 3 {
            return Err(EncodeError::Shape(format!(
                "an integer of {} bits is too long: at most {MAX_INT_DIGITS} decimal digits \
                 can be passed out of the workflow",
                number.bits()
            )));
        }
        match i64::try_from(number) {
            Ok(number) => {
                let _ = write!(self.out, "{number}");
                Ok(())
            }
            Err(_) => self.tagged_text("$int", &number.to_string()),
        }
    }

    fn datetime(&mut self, value: &MontyDateTime) -> Encoded {
        let mut text = String::new();
        iso::write_datetime(value, &mut text);
        match &value.timezone_name {
            None => self.tagged_text("$datetime", &text),
            Some(zone) => self.tagged("$datetime", |this| {
                this.items(["[", "]"], [text.as_str(), zone], Self::string)
            }),
        }
    }

    fn time(&mut self, value: &MontyTime) -> Encoded {
        let mut text = String::new();
        iso::write_time(value, &mut text);
        if value.timezone_name.is_none() && value.fold == 0 {
            return self.tagged_text("$time", &text);
        }
        self.tagged("$time", |this| {
            this.raw("[");
            this.string(&text)?;
            this.raw(",");
            match &value.timezone_name {
                Some(zone) => this.string(zone)?,
                None => this.raw("null"),
            }
            let _ = write!(this.out, ",{}]", value.fold);
            Ok(())
        })
    }
}

fn unsupported(node: &MontyNode) -> EncodeError {
    let what = match node {
        MontyNode::Cycle(_) => {
            return EncodeError::Shape("the value contains itself".to_owned());
        }
        MontyNode::Function { name, .. } => format!("the function '{name}'"),
        MontyNode::BuiltinFunction(function) => format!("the builtin function '{function}'"),
        MontyNode::Type(class) => format!("the class '{class}'"),
        MontyNode::ClassType(class) => format!("the class '{}'", class.name),
        MontyNode::Module { name, .. } => format!("the module '{name}'"),
        MontyNode::FileHandle(_) => "an open file".to_owned(),
        MontyNode::NotImplemented => "NotImplemented".to_owned(),
        MontyNode::Repr(text) if is_awaitable(text) => {
            let shown: String = text.chars().take(80).collect();
            return EncodeError::Unsupported(format!(
                "{shown} was never awaited: write `await` before the call"
            ));
        }
        MontyNode::Repr(text) => text.chars().take(80).collect(),
        _ => "this value".to_owned(),
    };
    EncodeError::Unsupported(format!("{what} cannot be passed out of the workflow"))
}

/// Whether a `repr()` is that of something that should have been awaited.
pub(super) fn is_awaitable(text: &str) -> bool {
    ["<coroutine ", "<gather(", "<external_future", "<ExternalFuture"]
        .iter()
        .any(|start| text.starts_with(start))
}
