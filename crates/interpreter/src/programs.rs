//! The programs a pool knows: short keys for the wire, and the dictionary of each.

use std::{collections::HashMap, sync::Arc};

use durable_core::{Dictionary as Stored, Program, ProgramId};
use parking_lot::Mutex;

use crate::{dictionary::Dictionary, protocol::ProgramKey};

/// Most programs that are kept, and the most text; the least recently used ones are forgotten.
const MAX_PROGRAMS: usize = 1_024;
const MAX_PROGRAM_BYTES: usize = 64 << 20;

/// A program as the parent knows it.
pub(crate) struct Known {
    pub(crate) key: ProgramKey,
    pub(crate) program: Arc<Program>,
    /// The definition as it is sent to workers.
    pub(crate) json: Arc<str>,
    dictionary: Mutex<Option<KnownDictionary>>,
    /// The dictionary that was chosen here, ready for use: all first dumps are packed with it.
    chosen: Mutex<Option<Arc<Dictionary>>>,
}

/// A dictionary with its id, so that it is hashed once.
#[derive(Clone)]
pub(crate) struct KnownDictionary {
    pub(crate) id: u64,
    pub(crate) stored: Stored,
}

impl Known {
    /// The dictionary to use: the one given, else the one this pool chose for the program.
    pub(crate) fn dictionary(&self, given: Option<&Stored>) -> Option<KnownDictionary> {
        let mut known = self.dictionary.lock();
        if let Some(given) = given
            && known
                .as_ref()
                .is_none_or(|known| !Arc::ptr_eq(&known.stored, given) && known.stored != *given)
        {
            let id = Dictionary::id_of(given);
            *known = Some(KnownDictionary { id, stored: Arc::clone(given) });
        }
        known.clone()
    }

    /// The program's dictionary, made from this dump if there is none yet: executions that start
    /// at the same time agree on one.
    ///
    /// # Errors
    /// Those of compression.
    pub(crate) fn choose_dictionary(
        &self,
        dump: &[u8],
    ) -> std::io::Result<(KnownDictionary, Arc<Dictionary>)> {
        let mut known = self.dictionary.lock();
        let dictionary = match &*known {
            Some(known) => known.clone(),
            None => {
                let stored: Stored = Dictionary::make(dump)?.into();
                let made = KnownDictionary { id: Dictionary::id_of(&stored), stored };
                known.insert(made).clone()
            }
        };
        drop(known);
        let mut chosen = self.chosen.lock();
        if let Some(loaded) = &*chosen
            && loaded.id() == dictionary.id
        {
            return Ok((dictionary, Arc::clone(loaded)));
        }
        let loaded = Arc::new(Dictionary::load(&dictionary.stored)?);
        *chosen = Some(Arc::clone(&loaded));
        Ok((dictionary, loaded))
    }
}

/// All programs a pool has seen lately.
#[derive(Default)]
pub(crate) struct Programs {
    known: HashMap<ProgramId, (Arc<Known>, u64)>,
    next_key: ProgramKey,
    clock: u64,
    bytes: usize,
}

impl Programs {
    pub(crate) fn get(&mut self, program: &Arc<Program>) -> Arc<Known> {
        self.clock += 1;
        if let Some((known, used)) = self.known.get_mut(program.id()) {
            *used = self.clock;
            return Arc::clone(known);
        }
        if self.known.len() >= MAX_PROGRAMS || self.bytes > MAX_PROGRAM_BYTES {
            self.forget_oldest_half();
        }
        self.next_key = self.next_key.wrapping_add(1);
        let known = Arc::new(Known {
            key: self.next_key,
            program: Arc::clone(program),
            json: program.to_json().into(),
            dictionary: Mutex::new(None),
            chosen: Mutex::new(None),
        });
        self.bytes += known.json.len();
        self.known.insert(program.id().clone(), (Arc::clone(&known), self.clock));
        known
    }

    fn forget_oldest_half(&mut self) {
        let mut used: Vec<u64> = self.known.values().map(|(_, used)| *used).collect();
        used.sort_unstable();
        let middle = used[used.len() / 2];
        self.known.retain(|_, (_, used)| *used > middle);
        self.bytes = self.known.values().map(|(known, _)| known.json.len()).sum();
    }
}
