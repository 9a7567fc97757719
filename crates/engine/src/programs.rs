//! Programs in memory: checked once, with their dictionary.

use std::{collections::HashMap, sync::Arc};

use durable_core::{Definition, Dictionary, Error, Program, ProgramId, Result};
use durable_store::{Store, StoredProgram};
use parking_lot::Mutex;

/// A program and what is known about it.
pub(crate) struct CachedProgram {
    program: Arc<Program>,
    dictionary: Mutex<Option<Dictionary>>,
}

/// What came of proposing a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is the one that is used from now on, and has to be stored.
    Taken,
    /// It is the one that is used already.
    Known,
    /// Another one is used.
    Refused,
}

impl CachedProgram {
    fn new(program: Arc<Program>, dictionary: Option<Dictionary>) -> Self {
        Self { program, dictionary: Mutex::new(dictionary) }
    }

    pub(crate) fn program(&self) -> &Arc<Program> {
        &self.program
    }

    pub(crate) fn id(&self) -> &ProgramId {
        self.program.id()
    }

    pub(crate) fn definition(&self) -> &Definition {
        self.program.definition()
    }

    pub(crate) fn dictionary(&self) -> Option<Dictionary> {
        self.dictionary.lock().clone()
    }

    /// Proposes a first dump as the dictionary.
    pub(crate) fn offer_dictionary(&self, offered: &Dictionary) -> Offer {
        let mut dictionary = self.dictionary.lock();
        match &*dictionary {
            Some(kept) if kept == offered => Offer::Known,
            Some(_) => Offer::Refused,
            None => {
                *dictionary = Some(offered.clone());
                Offer::Taken
            }
        }
    }

    /// Takes over the dictionary that the store keeps.
    pub(crate) fn set_dictionary(&self, kept: Dictionary) {
        *self.dictionary.lock() = Some(kept);
    }
}

/// The programs this engine has met. When it is full it starts afresh, which costs a look-up each.
pub(crate) struct Programs {
    known: Mutex<HashMap<ProgramId, Arc<CachedProgram>>>,
    max: usize,
}

impl Programs {
    pub(crate) fn new(max: usize) -> Self {
        Self { known: Mutex::default(), max }
    }

    pub(crate) fn get(&self, id: &ProgramId) -> Option<Arc<CachedProgram>> {
        self.known.lock().get(id).cloned()
    }

    /// Remembers a program that is in the store.
    pub(crate) fn insert(
        &self,
        program: Arc<Program>,
        dictionary: Option<Dictionary>,
    ) -> Arc<CachedProgram> {
        let mut known = self.known.lock();
        if known.len() >= self.max {
            known.clear();
        }
        known
            .entry(program.id().clone())
            .or_insert_with(|| Arc::new(CachedProgram::new(program, dictionary)))
            .clone()
    }

    /// The program, from memory or from the store.
    pub(crate) fn load(&self, id: &ProgramId, store: &dyn Store) -> Result<Arc<CachedProgram>> {
        if let Some(known) = self.get(id) {
            return Ok(known);
        }
        let StoredProgram { program, dictionary } = store
            .program(id)?
            .ok_or_else(|| Error::corrupt(format!("program {id} is not in the store")))?;
        Ok(self.insert(program, dictionary))
    }
}
