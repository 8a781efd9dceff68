//! Other embedded stores, each with the durability that ours has: one transaction, on disk when it returns.

#[cfg(feature = "peers")]
pub(crate) use with::{Lmdb, Sqlite};

#[cfg(feature = "peers")]
mod with {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use heed::types::{Bytes, Str};

    /// SQLite with a write-ahead log that is synced by each commit.
    pub(crate) struct Sqlite(rusqlite::Connection);

    impl Sqlite {
        pub(crate) fn new(directory: &Path) -> Self {
            let db = rusqlite::Connection::open(directory.join("sqlite.db")).unwrap();
            db.pragma_update(None, "journal_mode", "WAL").unwrap();
            db.pragma_update(None, "synchronous", "FULL").unwrap();
            db.execute("CREATE TABLE objects (name TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID", ()).unwrap();
            Self(db)
        }

        pub(crate) fn put(&mut self, objects: &[(String, Vec<u8>)]) -> Duration {
            let began = Instant::now();
            let transaction = self.0.transaction().unwrap();
            {
                let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2)").unwrap();
                for (name, body) in objects {
                    put.execute((name, body)).unwrap();
                }
            }
            transaction.commit().unwrap();
            began.elapsed()
        }
    }

    /// LMDB as it comes: each commit is synced.
    pub(crate) struct Lmdb {
        env: heed::Env,
        db: heed::Database<Str, Bytes>,
    }

    impl Lmdb {
        #[allow(unsafe_code, reason = "LMDB maps its file; nobody else opens this one")]
        pub(crate) fn new(directory: &Path) -> Self {
            let path = directory.join("lmdb");
            std::fs::create_dir(&path).unwrap();
            let mut options = heed::EnvOpenOptions::new();
            options.map_size(256 << 20);
            let env = unsafe { options.open(path) }.unwrap();
            let mut transaction = env.write_txn().unwrap();
            let db = env.create_database(&mut transaction, None).unwrap();
            transaction.commit().unwrap();
            Self { env, db }
        }

        pub(crate) fn put(&mut self, objects: &[(String, Vec<u8>)]) -> Duration {
            let began = Instant::now();
            let mut transaction = self.env.write_txn().unwrap();
            for (name, body) in objects {
                self.db.put(&mut transaction, name, body).unwrap();
            }
            transaction.commit().unwrap();
            began.elapsed()
        }
    }
}
