//! Access tokens: `dm_<id>_<secret>`. The store has the BLAKE3 of the secret only.

use durable_core::{Error, Result, UnixMs};
use durable_store::{Role, TokenRecord};

const PREFIX: &str = "dm_";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
/// Longest name of a token.
const MAX_NAME_CHARS: usize = 200;

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Whom it is for.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// The namespace its bearer is confined to.
    pub namespace: Option<String>,
    /// When it ends by itself.
    pub expires_at_ms: Option<UnixMs>,
}

/// Makes a token: its text, to be shown once, and what is stored of it.
///
/// ```
/// use durable_server::{NewToken, mint};
/// use durable_store::Role;
/// let new =
///     NewToken { name: "ci".into(), role: Role::Viewer, namespace: None, expires_at_ms: None };
/// let (text, record) = mint(new, 0)?;
/// assert!(text.starts_with(&format!("dm_{}_", record.id)));
/// # Ok::<(), durable_core::Error>(())
/// ```
///
/// # Errors
/// `Invalid` for a name or namespace that is no plain text, or an end that is past.
pub fn mint(new: NewToken, now_ms: UnixMs) -> Result<(String, TokenRecord)> {
    crate::check::text("name", &new.name, MAX_NAME_CHARS)?;
    if let Some(namespace) = &new.namespace {
        crate::check::label("namespace", namespace)?;
    }
    if new.expires_at_ms.is_some_and(|end_ms| end_ms <= now_ms) {
        return Err(Error::invalid("the token would be expired already: give a later time"));
    }
    let id = random_hex::<ID_BYTES>()?;
    let secret = random_hex::<SECRET_BYTES>()?;
    let record = TokenRecord {
        id: id.clone(),
        name: new.name,
        role: new.role,
        namespace: new.namespace,
        secret_hash: *blake3::hash(secret.as_bytes()).as_bytes(),
        created_at_ms: now_ms,
        expires_at_ms: new.expires_at_ms,
        revoked_at_ms: None,
    };
    Ok((format!("{PREFIX}{id}_{secret}"), record))
}

/// The record that a token's text belongs to, if it is worth anything.
pub(crate) fn find<'a>(
    text: &str,
    records: &'a [TokenRecord],
    now_ms: UnixMs,
) -> Option<&'a TokenRecord> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let record = records.iter().find(|record| record.id == id)?;
    // Hashes are compared in constant time.
    let is_right = blake3::hash(secret.as_bytes()) == blake3::Hash::from(record.secret_hash);
    (is_right && record.is_live(now_ms)).then_some(record)
}

fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::unavailable(format!("no randomness for a token: {error}")))?;
    Ok(crate::check::hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(expires_at_ms: Option<UnixMs>) -> NewToken {
        NewToken { name: "n".into(), role: Role::Admin, namespace: None, expires_at_ms }
    }

    #[test]
    fn a_token_is_found_by_its_own_secret_only_and_while_it_lives() {
        let (text, record) = mint(new(Some(100)), 0).unwrap();
        let (other, second) = mint(new(None), 0).unwrap();
        let records = [record.clone(), second];
        assert_eq!(find(&text, &records, 99).unwrap().id, record.id);
        assert!(find(&text, &records, 100).is_none(), "expired");
        let (_, foreign) = other.rsplit_once('_').unwrap();
        let mixed = format!("dm_{}_{foreign}", record.id);
        for wrong in [mixed.as_str(), "", "dm_", "dm__", &text[..text.len() - 1], &text[3..]] {
            assert!(find(wrong, &records, 0).is_none(), "{wrong}");
        }
        let revoked = [TokenRecord { revoked_at_ms: Some(1), ..record }];
        assert!(find(&text, &revoked, 2).is_none());
    }

    #[test]
    fn a_token_that_makes_no_sense_is_refused() {
        assert!(mint(new(Some(5)), 5).is_err());
        assert!(mint(NewToken { name: "a\nb".into(), ..new(None) }, 0).is_err());
        assert!(mint(NewToken { namespace: Some("a b".into()), ..new(None) }, 0).is_err());
    }
}
