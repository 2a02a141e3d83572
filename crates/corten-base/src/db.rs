//! `meta.db`: one transactional file of typed tables, one writer, snapshot readers.
//!
//! Values are JSON, so that a record can gain fields (`#[serde(default)]`) without a migration; keys are text.
//! Each table belongs to one module, which declares it with [`Table::new`] and draws its schema.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};

/// The handle; clones share the file.
#[derive(Debug, Clone)]
pub struct Db {
    inner: Arc<Database>,
}

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// redb could not open, read or commit.
    #[error("metadata database")]
    Store(#[from] Box<redb::Error>),
    /// A record that this program does not understand.
    #[error("record {key} of table {table}")]
    Record {
        /// Table name.
        table: &'static str,
        /// Key of the record.
        key: String,
        /// What serde said.
        source: serde_json::Error,
    },
}

fn store(e: impl Into<redb::Error>) -> DbError {
    DbError::Store(Box::new(e.into()))
}

/// Whether a commit must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// What the user asked for: synced before we answer.
    Durable,
    /// What can be observed again: written, synced with the next durable commit.
    Lazy,
}

/// A typed table.
#[derive(Debug)]
pub struct Table<V> {
    name: &'static str,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Table<V> {}

impl<V: Serialize + DeserializeOwned> Table<V> {
    /// Declares a table; names are `image_*`, `container_*`, … after their owner.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.name)
    }

    fn decode(self, key: &str, bytes: &[u8]) -> Result<V, DbError> {
        serde_json::from_slice(bytes).map_err(|source| DbError::Record {
            table: self.name,
            key: key.to_owned(),
            source,
        })
    }
}

impl Db {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// When another process holds it, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, DbError> {
        let db = Database::builder().set_cache_size(2 << 20).create(path).map_err(store)?;
        Ok(Self { inner: Arc::new(db) })
    }

    /// Runs `f` in one write transaction; it is committed if `f` succeeds and undone if it fails.
    ///
    /// # Errors
    /// Those of `f`, and those of the commit.
    pub fn write<T, E: From<DbError>>(
        &self,
        commit: Commit,
        f: impl FnOnce(&Write) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut txn = self.inner.begin_write().map_err(store)?;
        if commit == Commit::Lazy {
            txn.set_durability(redb::Durability::None).map_err(store)?;
        }
        let write = Write { txn };
        let value = f(&write)?;
        write.txn.commit().map_err(store)?;
        Ok(value)
    }

    /// One record.
    ///
    /// # Errors
    /// A damaged database or record.
    pub fn get<V: Serialize + DeserializeOwned>(
        &self,
        table: Table<V>,
        key: &str,
    ) -> Result<Option<V>, DbError> {
        let txn = self.inner.begin_read().map_err(store)?;
        let t = match txn.open_table(table.definition()) {
            Ok(t) => t,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(store(e)),
        };
        match t.get(key).map_err(store)? {
            Some(guard) => table.decode(key, guard.value()).map(Some),
            None => Ok(None),
        }
    }

    /// All records of a table in the order of their keys.
    ///
    /// # Errors
    /// A damaged database or record.
    pub fn all<V: Serialize + DeserializeOwned>(&self, table: Table<V>) -> Result<Vec<(String, V)>, DbError> {
        let mut out = Vec::new();
        self.each(table, |key, value| out.push((key.to_owned(), value)))?;
        Ok(out)
    }

    /// Hands out all records of a table, one after the other, in the order of their keys.
    ///
    /// # Errors
    /// A damaged database or record.
    pub fn each<V: Serialize + DeserializeOwned>(
        &self,
        table: Table<V>,
        mut take: impl FnMut(&str, V),
    ) -> Result<(), DbError> {
        let txn = self.inner.begin_read().map_err(store)?;
        let t = match txn.open_table(table.definition()) {
            Ok(t) => t,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(e) => return Err(store(e)),
        };
        for entry in t.iter().map_err(store)? {
            let (key, value) = entry.map_err(store)?;
            take(key.value(), table.decode(key.value(), value.value())?);
        }
        Ok(())
    }
}

/// An open write transaction.
pub struct Write {
    txn: redb::WriteTransaction,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Write")
    }
}

impl Write {
    /// One record, as this transaction sees it.
    ///
    /// # Errors
    /// A damaged database or record.
    pub fn get<V: Serialize + DeserializeOwned>(
        &self,
        table: Table<V>,
        key: &str,
    ) -> Result<Option<V>, DbError> {
        let t = self.txn.open_table(table.definition()).map_err(store)?;
        match t.get(key).map_err(store)? {
            Some(guard) => table.decode(key, guard.value()).map(Some),
            None => Ok(None),
        }
    }

    /// All records, as this transaction sees them.
    ///
    /// # Errors
    /// A damaged database or record.
    pub fn all<V: Serialize + DeserializeOwned>(&self, table: Table<V>) -> Result<Vec<(String, V)>, DbError> {
        let t = self.txn.open_table(table.definition()).map_err(store)?;
        let mut out = Vec::new();
        for entry in t.iter().map_err(store)? {
            let (key, value) = entry.map_err(store)?;
            out.push((key.value().to_owned(), table.decode(key.value(), value.value())?));
        }
        Ok(out)
    }

    /// Inserts or replaces.
    ///
    /// # Errors
    /// A damaged or full database.
    pub fn put<V: Serialize + DeserializeOwned>(
        &self,
        table: Table<V>,
        key: &str,
        value: &V,
    ) -> Result<(), DbError> {
        let bytes = serde_json::to_vec(value).map_err(|source| DbError::Record {
            table: table.name,
            key: key.to_owned(),
            source,
        })?;
        let mut t = self.txn.open_table(table.definition()).map_err(store)?;
        t.insert(key, bytes.as_slice()).map_err(store)?;
        Ok(())
    }

    /// Removes; says whether it was there.
    ///
    /// # Errors
    /// A damaged database.
    pub fn remove<V: Serialize + DeserializeOwned>(
        &self,
        table: Table<V>,
        key: &str,
    ) -> Result<bool, DbError> {
        let mut t = self.txn.open_table(table.definition()).map_err(store)?;
        Ok(t.remove(key).map_err(store)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Table<u32> = Table::new("test_numbers");

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("meta.db")).unwrap();
        db.write::<_, DbError>(Commit::Durable, |w| w.put(NUMBERS, "a", &1)).unwrap();
        let failed: Result<(), DbError> = db.write(Commit::Durable, |w| {
            w.put(NUMBERS, "b", &2)?;
            Err(store(redb::Error::DatabaseAlreadyOpen))
        });
        assert!(failed.is_err());
        assert_eq!(db.all(NUMBERS).unwrap(), vec![("a".to_owned(), 1)]);
        assert_eq!(db.get(NUMBERS, "b").unwrap(), None);
    }
}
