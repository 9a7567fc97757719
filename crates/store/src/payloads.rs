//! Stored payloads one by one, as they lie in their columns: for who seals them anew.

/// A table with payloads in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PayloadTable {
    /// Dictionaries.
    Programs,
    /// Inputs, outputs, and what executions failed with.
    Executions,
    /// Arguments, results, and what calls failed with.
    Calls,
    /// Those events that hold a payload themselves.
    Events,
    /// Snapshots.
    Snapshots,
}

/// How a payload lies in its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Text,
    Bytes,
}

/// A payload as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPayload {
    /// JSON or text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// The payloads of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadRow {
    /// Whose they are: the id of a program or of an execution.
    pub id: String,
    /// The number of the call or the event; 0 where there is none.
    pub number: u64,
    /// What is told by it how they are to be understood: the type of the event or of the error,
    /// the kind of the call. Empty when there is nothing to tell.
    pub word: String,
    /// In the order of [`PayloadTable::columns`]; `None` where there is none.
    pub payloads: Vec<Option<StoredPayload>>,
}

/// A payload that is to be replaced if it is still what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadChange {
    /// Of which row: its id and number.
    pub row: (String, u64),
    /// In which column of [`PayloadTable::columns`].
    pub column: usize,
    /// What stands there.
    pub from: StoredPayload,
    /// What is to stand there.
    pub to: StoredPayload,
}

/// In the place of a column of numbers, where there is none.
const NO_NUMBER: &str = "0";

/// What the statements about a table are put together from.
pub(crate) struct Layout {
    pub(crate) table: &'static str,
    pub(crate) id: &'static str,
    /// The column of the number, or [`NO_NUMBER`].
    pub(crate) number: &'static str,
    /// What gives the word.
    pub(crate) word: &'static str,
    /// Which rows have payloads.
    pub(crate) condition: &'static str,
    pub(crate) columns: &'static [(&'static str, Kind)],
}

impl Layout {
    /// Selects a page of rows: id, number, word and payloads. The markers stand for the id after
    /// which it begins, twice, for the number after which it begins, and for its length.
    pub(crate) fn page(&self, [id_from, id_after, number_after, limit]: [&str; 4]) -> String {
        let Self { table, id, number, word, condition, columns } = self;
        let columns: Vec<_> = columns.iter().map(|(column, _)| *column).collect();
        let columns = columns.join(", ");
        let order = if *number == NO_NUMBER { String::new() } else { format!(", {number}") };
        format!(
            "SELECT {id}, {number}, {word}, {columns} FROM {table}
             WHERE {condition} AND {id} >= {id_from}
               AND ({id} > {id_after} OR {number} > {number_after})
             ORDER BY {id}{order} LIMIT {limit}"
        )
    }
}

impl PayloadTable {
    /// Every table.
    pub const ALL: &'static [Self] =
        &[Self::Programs, Self::Executions, Self::Calls, Self::Events, Self::Snapshots];

    /// The names of the columns with payloads.
    pub fn columns(self) -> impl ExactSizeIterator<Item = &'static str> {
        self.layout().columns.iter().map(|(name, _)| *name)
    }

    /// The name that SQL knows the table by.
    pub fn name(self) -> &'static str {
        self.layout().table
    }

    pub(crate) fn layout(self) -> &'static Layout {
        match self {
            Self::Programs => &Layout {
                table: "programs",
                id: "id",
                number: NO_NUMBER,
                word: "''",
                condition: "dictionary IS NOT NULL",
                columns: &[("dictionary", Kind::Bytes)],
            },
            Self::Executions => &Layout {
                table: "executions",
                id: "id",
                number: NO_NUMBER,
                word: "COALESCE(error_type, '')",
                condition: "id <> ''",
                columns: &[
                    ("input_payload", Kind::Json),
                    ("output_payload", Kind::Json),
                    ("error", Kind::Text),
                    ("error_traceback", Kind::Text),
                ],
            },
            Self::Calls => &Layout {
                table: "execution_steps",
                id: "execution_id",
                number: "call_id",
                word: "kind",
                condition: "kind <> 'timer'",
                columns: &[
                    ("args", Kind::Json),
                    ("kwargs", Kind::Json),
                    ("result", Kind::Json),
                    ("error", Kind::Text),
                    ("error_traceback", Kind::Text),
                ],
            },
            Self::Events => &Layout {
                table: "execution_events",
                id: "execution_id",
                number: "sequence",
                word: "event_type",
                condition: "event_type IN ('STEP_RETRYING', 'PROGRAM_PRINTED', \
                            'EXECUTION_RETRIED', 'AGENT_RESPONSE', 'VARIABLES_SET')",
                columns: &[("event_payload", Kind::Json)],
            },
            Self::Snapshots => &Layout {
                table: "execution_state",
                id: "execution_id",
                number: NO_NUMBER,
                word: "''",
                condition: "state_snapshot IS NOT NULL",
                columns: &[("state_snapshot", Kind::Bytes)],
            },
        }
    }
}
