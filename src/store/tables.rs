//! The tables as rows of bytes, so that one engine writes to redb and to memory alike.

use store_format::Table;

use super::StoreError;
use crate::checkpoint::object::ObjectKey;

/// The place of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowKey<'a> {
    /// Table `meta`: format, identity, state.
    Meta(&'a str),
    /// Table `slots`: store id and fingerprint.
    Slot(&'a str),
    /// Table `objects`: kind, namespace, name.
    Object(&'a str, &'a str, &'a str),
    /// Table `pods`: namespace, name.
    Pod(&'a str, &'a str),
    /// Table `log`: revision.
    Log(&'a str),
}

impl<'a> RowKey<'a> {
    pub(super) fn object(key: &'a ObjectKey) -> Self {
        Self::Object(key.kind().row().name, key.namespace(), key.name())
    }

    pub(super) fn table(self) -> Table {
        match self {
            Self::Meta(_) => Table::Meta,
            Self::Slot(_) => Table::Slots,
            Self::Object(..) => Table::Objects,
            Self::Pod(..) => Table::Pods,
            Self::Log(_) => Table::Log,
        }
    }

    pub(super) fn parts(self) -> Vec<&'a str> {
        match self {
            Self::Meta(key) | Self::Slot(key) | Self::Log(key) => vec![key],
            Self::Object(kind, namespace, name) => vec![kind, namespace, name],
            Self::Pod(namespace, name) => vec![namespace, name],
        }
    }

    /// The key whose parts these are; `None` if there are too few or too many for the table.
    pub(super) fn from_parts(table: Table, parts: &'a [String]) -> Option<Self> {
        match (table, parts) {
            (Table::Meta, [key]) => Some(Self::Meta(key)),
            (Table::Slots, [key]) => Some(Self::Slot(key)),
            (Table::Objects, [kind, namespace, name]) => Some(Self::Object(kind, namespace, name)),
            (Table::Pods, [namespace, name]) => Some(Self::Pod(namespace, name)),
            (Table::Log, [key]) => Some(Self::Log(key)),
            (Table::Meta | Table::Slots | Table::Objects | Table::Pods | Table::Log, _) => None,
        }
    }
}

/// One row as it lies in the file.
#[derive(Clone)]
pub(super) struct Row {
    pub(super) table: Table,
    pub(super) key: Vec<String>,
    pub(super) bytes: Vec<u8>,
}

/// All tables, in the order in which they are read: what names others comes first.
pub(super) const TABLES: [Table; 5] = [Table::Meta, Table::Slots, Table::Pods, Table::Objects, Table::Log];

/// Rows inside one write transaction.
pub(super) trait Tables {
    /// Shows a row where it lies, without a copy of it; `false` if there is none.
    fn look(&self, key: RowKey<'_>, see: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError>;
    /// Whether there is such a row.
    fn has(&self, key: RowKey<'_>) -> Result<bool, StoreError> {
        self.look(key, &mut |_| {})
    }
    fn put(&mut self, key: RowKey<'_>, bytes: &[u8]) -> Result<(), StoreError>;
    fn remove(&mut self, key: RowKey<'_>) -> Result<(), StoreError>;
    /// Every row of `objects` of this kind, in this namespace only if one is given.
    fn objects(&self, kind: &str, namespace: Option<&str>) -> Result<Vec<Row>, StoreError>;
    /// Every row of a table.
    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError>;
    /// How many rows `log` has.
    fn log_len(&self) -> Result<u64, StoreError>;
    /// The last key of `log`.
    fn log_last(&self) -> Result<Option<String>, StoreError>;
    /// The first keys of `log`, at most `count`.
    fn log_first(&self, count: usize) -> Result<Vec<String>, StoreError>;
}
