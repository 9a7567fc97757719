//! What stands around a content that is kept: a checksum, the id it belongs to, and how it is
//! compressed and sealed.
//!
//! `DMCKPT01`, BLAKE3 of all that follows (32 bytes), form (1 byte), length of the id (1 byte), the
//! id, length of the content (8 bytes), the content: compressed, then sealed. A file that was cut
//! off, altered or put in another one's place is found by that, and named.

use durable_core::{Error, Result};
use durable_store::KeyRing;

use crate::CheckpointId;

const MAGIC: &[u8] = b"DMCKPT01";
const HASH_BYTES: usize = 32;
const LEVEL: i32 = 3;

/// How a content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain = 0,
    Zstd = 1,
    /// With the words that stand in every checkpoint.
    ZstdWithWords = 2,
}

/// The words that stand in most checkpoints, the most frequent last. It is part of the form: it may
/// only change together with [`Form::ZstdWithWords`].
const WORDS: &[u8] = br#"{"$dataclass":{"name":"","fields":{"id":,"type":"message","content":"role":"user","role":"assistant","text":"}}},{"$datetime":"2026-01-01T00:00:00+00:00"},{"$tuple":[]},{"$bytes":""},{"$model":{"name":"","fields":{}}},{"$set":[]},"error":null,"result":null,"status":"completed","name":"","value":0,"items":[],"data":{},"url":"https://","count":1,true,false,null,"agents":{},"waiting_for":[],"calls":[],"arguments":{},"function":"","line":1,"line_number":"01","source_line_number":1,"instruction_pointer":"Main:01","playbook":"Main","frames":[],await asyncio.gather(),async def ,return ,for in range(, = await (","response":null,"prompt":"","namespace":"main"},"execution_state":{"variables":{},"namespace":{},"metadata":{"statement":" = await ","counter":1,"execution_id":"019a0000-0000-7000-8000-000000000000","timestamp":1760000000.0,"call_stack":[],"llm_response":null,"executed_code":null}}"#;

/// Puts a content into its envelope. An empty ring seals nothing.
pub(crate) fn wrap(id: &CheckpointId, keys: &KeyRing, content: &[u8]) -> Result<Vec<u8>> {
    let (form, packed) = pack(content);
    let name = id.to_string();
    let place = format!("checkpoint {name}");
    let sealed = if keys.is_empty() { packed } else { keys.seal_bytes(&place, &packed)? };
    let mut body = Vec::with_capacity(MAGIC.len() + HASH_BYTES + 10 + name.len() + sealed.len());
    body.extend_from_slice(MAGIC);
    body.extend_from_slice(&[0; HASH_BYTES]);
    body.extend_from_slice(&[form as u8, name.len() as u8]);
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&(content.len() as u64).to_le_bytes());
    body.extend_from_slice(&sealed);
    let hash = blake3::hash(&body[MAGIC.len() + HASH_BYTES..]);
    body[MAGIC.len()..][..HASH_BYTES].copy_from_slice(hash.as_bytes());
    Ok(body)
}

/// Takes a content out of its envelope.
///
/// # Errors
/// `Corrupt` that names the checkpoint and says what is wrong; `Unavailable` without the key.
pub(crate) fn unwrap(
    id: &CheckpointId,
    keys: &KeyRing,
    max_bytes: usize,
    stored: &[u8],
) -> Result<Vec<u8>> {
    let corrupt = |what: &str| Error::corrupt(format!("checkpoint {id} {what}"));
    let torn = || corrupt("is torn: it was cut off, or is no checkpoint");
    let rest = stored.strip_prefix(MAGIC).ok_or_else(torn)?;
    let (hash, body) = rest.split_at_checked(HASH_BYTES).ok_or_else(torn)?;
    if blake3::hash(body).as_bytes() != hash {
        return Err(corrupt("was altered or cut off: its checksum is another one"));
    }
    let (head, body) = body.split_at_checked(2).ok_or_else(torn)?;
    let (name, body) = body.split_at_checked(usize::from(head[1])).ok_or_else(torn)?;
    if name != id.to_string().as_bytes() {
        let found = String::from_utf8_lossy(name).into_owned();
        return Err(corrupt(&format!("holds {found}: somebody put one in the other's place")));
    }
    let (length, sealed) = body.split_first_chunk::<8>().ok_or_else(torn)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| torn())?;
    if length > max_bytes {
        return Err(Error::invalid(format!(
            "checkpoint {id} has {length} bytes, more than max_checkpoint_size_mb allows"
        )));
    }
    let place = format!("checkpoint {id}");
    let packed = keys.open_bytes(&place, sealed)?;
    let content = match head[0] {
        0 => packed.into_owned(),
        1 => zstd::bulk::decompress(&packed, length).map_err(|_| torn())?,
        2 => zstd::bulk::Decompressor::with_dictionary(WORDS)
            .and_then(|mut unpacker| unpacker.decompress(&packed, length))
            .map_err(|_| torn())?,
        form => {
            return Err(corrupt(&format!(
                "has the form {form}, which this version does not know: upgrade durable"
            )));
        }
    };
    if content.len() != length {
        return Err(torn());
    }
    Ok(content)
}

/// The smallest form of a content.
fn pack(content: &[u8]) -> (Form, Vec<u8>) {
    let mut best = (Form::Plain, content.len(), None);
    // The words pay only where there are few others.
    if content.len() <= 16 << 10
        && let Ok(packed) = zstd::bulk::Compressor::with_dictionary(LEVEL, WORDS)
            .and_then(|mut packer| packer.compress(content))
        && packed.len() < best.1
    {
        best = (Form::ZstdWithWords, packed.len(), Some(packed));
    }
    if best.2.is_none()
        && let Ok(packed) = zstd::bulk::compress(content, LEVEL)
        && packed.len() < best.1
    {
        best = (Form::Zstd, packed.len(), Some(packed));
    }
    (best.0, best.2.unwrap_or_else(|| content.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> CheckpointId {
        CheckpointId::parse("order-7_ckpt_3").unwrap()
    }

    #[test]
    fn words_make_a_small_checkpoint_half_as_large() {
        let content = br#"{"execution_state":{"variables":{"$n":3}},"namespace":{"n":3},"metadata":{"statement":"x = await fetch(n)","counter":3,"execution_id":"order-7","timestamp":1760000123.25,"call_stack":[],"llm_response":null,"executed_code":null}}"#;
        let without = zstd::bulk::compress(content, LEVEL).unwrap().len();
        let (form, with) = pack(content);
        assert_eq!(form, Form::ZstdWithWords);
        assert!(with.len() * 2 < without, "{} of {without}", with.len());
    }

    #[test]
    fn what_is_in_the_place_of_another_is_named() {
        let keys = KeyRing::default();
        let stored = wrap(&id(), &keys, b"state").unwrap();
        let other = id().execution.checkpoint(4);
        let error = unwrap(&other, &keys, 100, &stored).unwrap_err().to_string();
        assert!(error.contains("order-7_ckpt_4 holds order-7_ckpt_3"), "{error}");
    }

    #[test]
    fn a_sealed_checkpoint_shows_nothing_and_wants_its_key() {
        let keys = KeyRing::parse("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let stored = wrap(&id(), &keys, b"the secret of the state").unwrap();
        assert!(!stored.windows(6).any(|some| some == b"secret"));
        assert_eq!(unwrap(&id(), &keys, 100, &stored).unwrap(), b"the secret of the state");
        let error = unwrap(&id(), &KeyRing::default(), 100, &stored).unwrap_err();
        assert!(matches!(&error, Error::Unavailable(why) if why.contains("'k1'")), "{error:?}");
        let open = wrap(&id(), &KeyRing::default(), b"from before").unwrap();
        assert_eq!(unwrap(&id(), &keys, 100, &open).unwrap(), b"from before");
    }

    proptest! {
        #[test]
        fn what_is_cut_off_or_altered_is_refused(
            content in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let keys = KeyRing::default();
            let stored = wrap(&id(), &keys, &content).unwrap();
            prop_assert_eq!(unwrap(&id(), &keys, 1000, &stored).unwrap(), content);
            let at = at.index(stored.len());
            let mut altered = stored.clone();
            altered[at] ^= 1 << bit;
            prop_assert!(matches!(unwrap(&id(), &keys, 1000, &altered), Err(Error::Corrupt(_))));
            prop_assert!(matches!(unwrap(&id(), &keys, 1000, &stored[..at]), Err(Error::Corrupt(_))));
        }
    }
}
