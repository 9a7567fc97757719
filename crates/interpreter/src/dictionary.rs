//! Compression of dumps against a dictionary that is kept once per program.
//!
//! Dumps of one program share its source and bytecode, so the program's own first dump is the
//! best dictionary there is: the dumps after it shrink about ten times more than without.
//!
//! A dictionary is stored as one zstd frame (without a dictionary) of the first
//! [`MAX_DICTIONARY_BYTES`] of that dump; its id is the first 8 bytes, little-endian, of the
//! BLAKE3 hash of the bytes as stored. Once unpacked it serves as raw content.

use std::io;

use zstd::{
    dict::{DecoderDictionary, EncoderDictionary},
    zstd_safe::{CCtx, DCtx, get_error_name},
};

/// What of a program's first dump is kept as its dictionary.
pub(crate) const MAX_DICTIONARY_BYTES: usize = 128 << 10;

/// Largest dump that can be stored at all.
pub(crate) const MAX_DUMP_BYTES: usize = 1 << 30;

/// Of dictionaries, and of dumps with much that the dictionary does not have. Measured on dumps of
/// 3 to 57 KB: level 3 takes half as long again for the same size, 6 takes three times as long for
/// a tenth less.
const LEVEL: i32 = 1;

/// Of dumps that are mostly what the dictionary has: a checkpoint costs a tenth less altogether.
/// What the dictionary does not have stays as it is but for repetitions, so it is for little only.
const LEVEL_OF_FAMILIAR: i32 = -1;

/// A dictionary made ready for use.
pub(crate) struct Dictionary {
    id: u64,
    raw_len: usize,
    encoder: EncoderDictionary<'static>,
    encoder_of_familiar: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

impl Dictionary {
    /// The stored form of the dictionary that a program's first dump makes.
    ///
    /// # Errors
    /// Those of zstd.
    pub(crate) fn make(dump: &[u8]) -> io::Result<Vec<u8>> {
        let kept = &dump[..dump.len().min(MAX_DICTIONARY_BYTES)];
        zstd::bulk::compress(kept, LEVEL)
    }

    /// The id of a dictionary as stored.
    pub(crate) fn id_of(stored: &[u8]) -> u64 {
        let hash = blake3::hash(stored);
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_bytes()[..8]);
        // Zero stands for "none" in a snapshot.
        u64::from_le_bytes(id).max(1)
    }

    /// Unpacks a stored dictionary.
    ///
    /// # Errors
    /// `InvalidData` when it is none.
    pub(crate) fn load(stored: &[u8]) -> io::Result<Self> {
        let raw = zstd::bulk::decompress(stored, MAX_DICTIONARY_BYTES)?;
        Ok(Self {
            id: Self::id_of(stored),
            raw_len: raw.len(),
            encoder: EncoderDictionary::try_copy(&raw, LEVEL)?,
            encoder_of_familiar: EncoderDictionary::try_copy(&raw, LEVEL_OF_FAMILIAR)?,
            decoder: DecoderDictionary::try_copy(&raw)?,
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What compresses a dump of this length best.
    fn encoder_for(&self, dump_len: usize) -> &EncoderDictionary<'static> {
        let is_familiar = dump_len < 2 * self.raw_len;
        if is_familiar { &self.encoder_of_familiar } else { &self.encoder }
    }
}

/// The working memory of compression, reused from dump to dump.
pub(crate) struct Packer {
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
}

impl Packer {
    pub(crate) fn new() -> Self {
        Self { compressor: CCtx::create(), decompressor: DCtx::create() }
    }

    /// Compresses a dump.
    ///
    /// # Errors
    /// Those of zstd; `InvalidInput` above [`MAX_DUMP_BYTES`].
    pub(crate) fn pack(&mut self, dump: &[u8], dictionary: &Dictionary) -> io::Result<Vec<u8>> {
        if dump.len() > MAX_DUMP_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the dump is too large"));
        }
        let mut packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(dump.len()));
        self.compressor
            .compress_using_cdict(&mut packed, dump, dictionary.encoder_for(dump.len()).as_cdict())
            .map_err(|code| io::Error::other(get_error_name(code)))?;
        packed.shrink_to_fit();
        Ok(packed)
    }

    /// Restores a dump of exactly `raw_len` bytes.
    ///
    /// # Errors
    /// `InvalidData` when `packed` is no such thing.
    pub(crate) fn unpack(
        &mut self,
        packed: &[u8],
        raw_len: usize,
        dictionary: &Dictionary,
    ) -> io::Result<Vec<u8>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if raw_len > MAX_DUMP_BYTES {
            return Err(invalid("the dump is too large"));
        }
        let mut dump = Vec::with_capacity(raw_len);
        self.decompressor
            .decompress_using_ddict(&mut dump, packed, dictionary.decoder.as_ddict())
            .map_err(|code| invalid(get_error_name(code)))?;
        if dump.len() != raw_len {
            return Err(invalid("the dump has another length than the snapshot says"));
        }
        Ok(dump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_pack_against_a_dictionary_and_only_unpack_with_it() {
        let dump: Vec<u8> = (0..20_000u32).flat_map(|i| (i * 7919).to_le_bytes()).collect();
        let stored = Dictionary::make(&dump).unwrap();
        let dictionary = Dictionary::load(&stored).unwrap();
        assert_eq!(dictionary.id(), Dictionary::id_of(&stored));
        let mut packer = Packer::new();
        let packed = packer.pack(&dump, &dictionary).unwrap();
        assert!(packed.len() < 1_000, "{}", packed.len());
        assert_eq!(packer.unpack(&packed, dump.len(), &dictionary).unwrap(), dump);
        let grown = [&dump[..], &b"not in the dictionary; ".repeat(10_000)].concat();
        let packed_grown = packer.pack(&grown, &dictionary).unwrap();
        assert!(packed_grown.len() < 2_000, "{}", packed_grown.len());
        assert_eq!(packer.unpack(&packed_grown, grown.len(), &dictionary).unwrap(), grown);
        assert!(packer.unpack(&packed, dump.len() - 1, &dictionary).is_err());
        assert!(packer.unpack(&packed[1..], dump.len(), &dictionary).is_err());
        let other = Dictionary::load(&Dictionary::make(&vec![1; 50_000]).unwrap()).unwrap();
        let unpacked = packer.unpack(&packed, dump.len(), &other);
        assert!(unpacked.map_or(true, |bytes| bytes != dump));
        assert!(Dictionary::load(b"no zstd").is_err());
    }
}
