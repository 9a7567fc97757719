//! JSON text to Python values.

use monty_types::{
    ExcType, MontyComplex, MontyObject, MontyTimeDelta, MontyTimeZone, MontyUuid,
    unstable::{self, ClassTypeNode, MontyGraph, MontyNode, NodeId},
};
use num_bigint::BigInt;

use super::{
    MAX_INT_DIGITS, base64, is_reserved, iso,
    json::{Reader, Token},
};

/// Why a text is not the JSON form of a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct DecodeError {
    at: usize,
    what: String,
}

impl DecodeError {
    pub(super) fn new(at: usize, what: String) -> Self {
        Self { at, what }
    }
}

/// Reads a value.
///
/// # Errors
/// [`DecodeError`] when the text is not JSON or a tag's content is not of the documented form.
///
/// ```
/// use durable_interpreter::value;
/// use monty_types::MontyObject;
/// let value = value::decode(r#"{"$tuple": [1, 1.0]}"#)?;
/// assert_eq!(value, MontyObject::tuple([MontyObject::int(1), MontyObject::float(1.0)]));
/// assert!(value::decode(r#"{"$tuple": 1}"#).is_err());
/// # Ok::<(), value::DecodeError>(())
/// ```
pub fn decode(text: &str) -> Result<MontyObject, DecodeError> {
    let mut decoder = Decoder::new(text);
    let root = decoder.value()?;
    decoder.into_object(root)
}

/// Reads a plain object, such as the inputs of an execution, as its keys and values. The object
/// is never a tag itself.
///
/// # Errors
/// As for [`decode`]; also when the text is not an object.
pub fn decode_object(text: &str) -> Result<Vec<(String, MontyObject)>, DecodeError> {
    let mut reader = Reader::new(text);
    if !matches!(reader.token()?, Token::Object) {
        return reader.error("expected an object");
    }
    let mut fields = Vec::new();
    let mut decoder = Decoder { reader, graph: MontyGraph::new() };
    while let Some(key) = decoder.reader.next_key(fields.is_empty())? {
        let root = decoder.value()?;
        let graph = std::mem::take(&mut decoder.graph);
        fields.push((key, pair(graph, root)?));
    }
    decoder.reader.finish()?;
    Ok(fields)
}

fn pair(graph: MontyGraph, root: NodeId) -> Result<MontyObject, DecodeError> {
    unstable::object_from_graph(graph, root).map_err(|error| DecodeError::new(0, error.to_string()))
}

struct Decoder<'a> {
    reader: Reader<'a>,
    graph: MontyGraph,
}

impl<'a> Decoder<'a> {
    fn new(text: &'a str) -> Self {
        Self { reader: Reader::new(text), graph: MontyGraph::new() }
    }

    fn into_object(self, root: NodeId) -> Result<MontyObject, DecodeError> {
        self.reader.finish()?;
        pair(self.graph, root)
    }

    fn push(&mut self, node: MontyNode) -> NodeId {
        self.graph.push(node)
    }

    fn value(&mut self) -> Result<NodeId, DecodeError> {
        let node = match self.reader.token()? {
            Token::Null => MontyNode::None,
            Token::Bool(value) => MontyNode::Bool(value),
            Token::Integer(literal) => self.integer(literal)?,
            Token::Float(number) => MontyNode::Float(number),
            Token::String(text) => MontyNode::String(text),
            Token::Array => MontyNode::List(self.rest_of_array()?),
            Token::Object => return self.rest_of_object(),
        };
        Ok(self.push(node))
    }

    fn integer(&self, literal: &str) -> Result<MontyNode, DecodeError> {
        if let Ok(number) = literal.parse() {
            return Ok(MontyNode::Int(number));
        }
        if literal.len() > MAX_INT_DIGITS + 1 {
            return self.reader.error(format!("an integer has more than {MAX_INT_DIGITS} digits"));
        }
        match literal.parse::<BigInt>() {
            Ok(number) => Ok(MontyNode::BigInt(number)),
            Err(_) => self.reader.error("not an integer"),
        }
    }

    fn array(&mut self) -> Result<Vec<NodeId>, DecodeError> {
        match self.reader.token()? {
            Token::Array => self.rest_of_array(),
            _ => self.reader.error("expected an array"),
        }
    }

    fn rest_of_array(&mut self) -> Result<Vec<NodeId>, DecodeError> {
        let mut items = Vec::new();
        while self.reader.next_item(items.is_empty())? {
            items.push(self.value()?);
        }
        Ok(items)
    }

    fn hashable_array(&mut self, tag: &str) -> Result<Vec<NodeId>, DecodeError> {
        let items = self.array()?;
        match items.iter().all(|item| self.is_hashable(*item)) {
            true => Ok(items),
            false => self.malformed(tag),
        }
    }

    /// Whether a value can be in a set or be a key. As deep as the text is nested.
    fn is_hashable(&self, id: NodeId) -> bool {
        match self.graph.node(id) {
            MontyNode::List(_)
            | MontyNode::Set(_)
            | MontyNode::Dict(_)
            | MontyNode::ClassInstance { .. } => false,
            MontyNode::Tuple(items) | MontyNode::NamedTuple { values: items, .. } => {
                items.iter().all(|item| self.is_hashable(*item))
            }
            _ => true,
        }
    }

    fn rest_of_object(&mut self) -> Result<NodeId, DecodeError> {
        let mut pairs = Vec::new();
        while let Some(key) = self.reader.next_key(pairs.is_empty())? {
            if pairs.is_empty() && is_reserved(&key) && self.reader.is_last_value()? {
                let node = self.tagged(&key)?;
                self.reader.next_key(false)?;
                return Ok(node);
            }
            let key = self.push(MontyNode::String(key));
            let value = self.value()?;
            pairs.push((key, value));
        }
        Ok(self.push(MontyNode::Dict(pairs)))
    }

    fn tagged(&mut self, tag: &str) -> Result<NodeId, DecodeError> {
        let node = match tag {
            "$tuple" => MontyNode::Tuple(self.array()?),
            "$set" => MontyNode::Set(self.hashable_array(tag)?),
            "$frozenset" => MontyNode::FrozenSet(self.hashable_array(tag)?),
            "$dict" => self.dict()?,
            "$namedtuple" => self.named_tuple()?,
            "$dataclass" => return self.instance(true),
            "$object" => return self.instance(false),
            "$exception" => self.exception()?,
            "$complex" => self.complex()?,
            "$timedelta" => self.timedelta()?,
            "$timezone" => self.timezone()?,
            "$datetime" => self.datetime()?,
            "$time" => self.time()?,
            "$ellipsis" => match self.reader.token()? {
                Token::Null => MontyNode::Ellipsis,
                _ => return self.malformed(tag),
            },
            _ => self.tagged_text(tag)?,
        };
        Ok(self.push(node))
    }

    fn malformed<T>(&self, tag: &str) -> Result<T, DecodeError> {
        self.reader.error(format!("the content of {tag} is malformed"))
    }

    fn text(&mut self, tag: &str) -> Result<String, DecodeError> {
        match self.reader.token()? {
            Token::String(text) => Ok(text),
            _ => self.malformed(tag),
        }
    }

    fn tagged_text(&mut self, tag: &str) -> Result<MontyNode, DecodeError> {
        let text = self.text(tag)?;
        let node = match tag {
            "$int" if text.starts_with('+') => None,
            "$int" => Some(self.integer(&text)?),
            "$float" => float_of(&text).map(MontyNode::Float),
            "$decimal" => is_decimal(&text).then_some(MontyNode::Decimal(text)),
            "$bytes" => base64::decode(&text).map(MontyNode::Bytes),
            "$date" => iso::parse_date(&text).map(MontyNode::Date),
            "$path" => Some(MontyNode::Path(text)),
            _ => return self.reader.error(format!("the tag {tag} is not known to this version")),
        };
        node.map_or_else(|| self.malformed(tag), Ok)
    }

    fn dict(&mut self) -> Result<MontyNode, DecodeError> {
        if !matches!(self.reader.token()?, Token::Array) {
            return self.malformed("$dict");
        }
        let mut pairs = Vec::new();
        while self.reader.next_item(pairs.is_empty())? {
            match self.array()?[..] {
                [key, value] if self.is_hashable(key) => pairs.push((key, value)),
                _ => return self.malformed("$dict"),
            }
        }
        Ok(MontyNode::Dict(pairs))
    }

    /// Reads `{"name": …, "fields": {…}}`.
    fn record(&mut self, tag: &str) -> Result<(String, Vec<(String, NodeId)>), DecodeError> {
        if !matches!(self.reader.token()?, Token::Object)
            || self.reader.next_key(true)?.as_deref() != Some("name")
        {
            return self.malformed(tag);
        }
        let name = self.text(tag)?;
        if self.reader.next_key(false)?.as_deref() != Some("fields")
            || !matches!(self.reader.token()?, Token::Object)
        {
            return self.malformed(tag);
        }
        let mut fields = Vec::new();
        while let Some(field) = self.reader.next_key(fields.is_empty())? {
            let value = self.value()?;
            fields.push((field, value));
        }
        match self.reader.next_key(false)? {
            None => Ok((name, fields)),
            Some(_) => self.malformed(tag),
        }
    }

    fn named_tuple(&mut self) -> Result<MontyNode, DecodeError> {
        let (type_name, fields) = self.record("$namedtuple")?;
        let (field_names, values) = fields.into_iter().unzip();
        Ok(MontyNode::NamedTuple { type_name, field_names, values })
    }

    fn instance(&mut self, is_dataclass: bool) -> Result<NodeId, DecodeError> {
        let tag = if is_dataclass { "$dataclass" } else { "$object" };
        let (name, fields) = self.record(tag)?;
        // Identities are derived, so that a replay sees the same ones: a class is its name and
        // fields, an instance is its place in the value.
        let mut hasher = blake3::Hasher::new();
        hasher.update(tag.as_bytes()).update(name.as_bytes());
        for (field, _) in &fields {
            hasher.update(&[0]).update(field.as_bytes());
        }
        let class_id = uuid(&hasher);
        let class = self.push(MontyNode::ClassType(Box::new(ClassTypeNode {
            name,
            id: class_id,
            host_defined: true,
            is_dataclass,
            attrs: Vec::new(),
        })));
        let attrs = fields
            .into_iter()
            .map(|(field, value)| (self.push(MontyNode::String(field)), value))
            .collect();
        hasher.update(&(self.graph.len() as u64).to_le_bytes());
        let instance_id = uuid(&hasher);
        Ok(self.push(MontyNode::ClassInstance { class_type: class, instance_id, attrs }))
    }

    fn exception(&mut self) -> Result<MontyNode, DecodeError> {
        let tag = "$exception";
        if !matches!(self.reader.token()?, Token::Object)
            || self.reader.next_key(true)?.as_deref() != Some("type")
        {
            return self.malformed(tag);
        }
        let name = self.text(tag)?;
        if self.reader.next_key(false)?.as_deref() != Some("message") {
            return self.malformed(tag);
        }
        let arg = match self.reader.token()? {
            Token::Null => None,
            Token::String(text) => Some(text),
            _ => return self.malformed(tag),
        };
        if self.reader.next_key(false)?.is_some() {
            return self.malformed(tag);
        }
        Ok(match name.parse() {
            Ok(exc_type) => MontyNode::Exception { exc_type, arg },
            // Only builtin exception types exist inside.
            Err(_) => MontyNode::Exception {
                exc_type: ExcType::RuntimeError,
                arg: Some(arg.map_or(name.clone(), |arg| format!("{name}: {arg}"))),
            },
        })
    }

    fn complex(&mut self) -> Result<MontyNode, DecodeError> {
        let [real, imag] = match self.array()?[..] {
            [real, imag] => [real, imag].map(|id| match self.graph.node(id) {
                MontyNode::Float(number) => Some(*number),
                _ => None,
            }),
            _ => return self.malformed("$complex"),
        };
        match (real, imag) {
            (Some(real), Some(imag)) => Ok(MontyNode::Complex(MontyComplex { real, imag })),
            _ => self.malformed("$complex"),
        }
    }

    fn small_int(&mut self) -> Result<Option<i32>, DecodeError> {
        Ok(match self.reader.token()? {
            Token::Integer(literal) => literal.parse().ok(),
            _ => None,
        })
    }

    fn timedelta(&mut self) -> Result<MontyNode, DecodeError> {
        let tag = "$timedelta";
        if !matches!(self.reader.token()?, Token::Array) {
            return self.malformed(tag);
        }
        let mut parts = [0; 3];
        for (index, part) in parts.iter_mut().enumerate() {
            *part = match self.reader.next_item(index == 0)?.then(|| self.small_int()) {
                Some(Ok(Some(number))) => number,
                _ => return self.malformed(tag),
            };
        }
        let [days, seconds, microseconds] = parts;
        let is_normal = days.abs() <= 999_999_999
            && (0..86_400).contains(&seconds)
            && (0..1_000_000).contains(&microseconds);
        if self.reader.next_item(false)? || !is_normal {
            return self.malformed(tag);
        }
        Ok(MontyNode::TimeDelta(MontyTimeDelta { days, seconds, microseconds }))
    }

    fn timezone(&mut self) -> Result<MontyNode, DecodeError> {
        let tag = "$timezone";
        let (offset, name) = match self.reader.token()? {
            Token::Integer(literal) => (literal.parse().ok(), None),
            Token::Array => {
                let offset = match self.reader.next_item(true)? {
                    true => self.small_int()?,
                    false => None,
                };
                if !self.reader.next_item(false)? {
                    return self.malformed(tag);
                }
                let name = self.text(tag)?;
                if self.reader.next_item(false)? {
                    return self.malformed(tag);
                }
                (offset, Some(name))
            }
            _ => return self.malformed(tag),
        };
        match offset.filter(|offset: &i32| offset.abs() < 86_400) {
            Some(offset_seconds) => Ok(MontyNode::TimeZone(MontyTimeZone { offset_seconds, name })),
            None => self.malformed(tag),
        }
    }

    fn datetime(&mut self) -> Result<MontyNode, DecodeError> {
        let tag = "$datetime";
        let (text, zone) = match self.reader.token()? {
            Token::String(text) => (text, None),
            Token::Array => {
                let mut parts = [String::new(), String::new()];
                for (index, part) in parts.iter_mut().enumerate() {
                    if !self.reader.next_item(index == 0)? {
                        return self.malformed(tag);
                    }
                    *part = self.text(tag)?;
                }
                if self.reader.next_item(false)? {
                    return self.malformed(tag);
                }
                let [text, zone] = parts;
                (text, Some(zone))
            }
            _ => return self.malformed(tag),
        };
        let value = iso::parse_datetime(&text, zone).map(MontyNode::DateTime);
        value.map_or_else(|| self.malformed(tag), Ok)
    }

    fn time(&mut self) -> Result<MontyNode, DecodeError> {
        let tag = "$time";
        let (text, zone, fold) = match self.reader.token()? {
            Token::String(text) => (text, None, Some(0)),
            Token::Array => {
                if !self.reader.next_item(true)? {
                    return self.malformed(tag);
                }
                let text = self.text(tag)?;
                if !self.reader.next_item(false)? {
                    return self.malformed(tag);
                }
                let zone = match self.reader.token()? {
                    Token::Null => None,
                    Token::String(zone) => Some(zone),
                    _ => return self.malformed(tag),
                };
                if !self.reader.next_item(false)? {
                    return self.malformed(tag);
                }
                let fold = self.small_int()?.and_then(|fold| u8::try_from(fold).ok());
                if self.reader.next_item(false)? {
                    return self.malformed(tag);
                }
                (text, zone, fold)
            }
            _ => return self.malformed(tag),
        };
        let value = fold.and_then(|fold| iso::parse_time(&text, zone, fold)).map(MontyNode::Time);
        value.map_or_else(|| self.malformed(tag), Ok)
    }
}

fn float_of(name: &str) -> Option<f64> {
    Some(match name {
        "nan" => f64::NAN,
        "inf" => f64::INFINITY,
        "-inf" => f64::NEG_INFINITY,
        _ => return None,
    })
}

/// Whether a text is what `str(d)` of a `Decimal` may be.
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(payload) = text.strip_prefix("sNaN").or_else(|| text.strip_prefix("NaN")) {
        return all_digits(payload);
    }
    if text == "Infinity" {
        return true;
    }
    let (digits, exponent) = match text.split_once(['E', 'e']) {
        Some((digits, exponent)) => (digits, exponent),
        None => (text, "0"),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    // The interpreter's own bound on exponents has 18 digits.
    all_digits(whole)
        && all_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && (1..=17).contains(&exponent.len())
        && all_digits(exponent)
}

fn uuid(hasher: &blake3::Hasher) -> MontyUuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    MontyUuid::from_random_bytes(bytes)
}
