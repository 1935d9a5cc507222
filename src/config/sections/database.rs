//! `database.*`: Postgres.

use std::path::PathBuf;

use crate::config::{
    Secret,
    keys::{default, key, unset},
    parse::{login, optional, path, secret, urls, whole},
    reader::Reader,
    section::section,
};

/// The private Postgres takes 64 connections; commands and its own reserve need some of them.
const PRIVATE_POOL: usize = 48;

section! {
    /// Postgres.
    pub struct DatabaseConfig in "database." {
        /// postgres:// URL; several servers, host,host, mean the one that takes writes; unset: a private
        /// Postgres under data_dir.
        url: Option<Secret> =
            unset("postgres://esh3ar@db.example.com/esh3ar?sslmode=require").secret()
            => optional(secret),
        /// postgres:// URLs of streaming replicas that lists and histories may be read from; several in an
        /// array, or with commas.
        replica_urls: Vec<Secret> =
            unset("[\"postgres://esh3ar@replica.example.com/esh3ar?sslmode=require\"]").secret()
            => urls,
        /// Connections to Postgres at once, and to each replica; 48 at most with the private one.
        pool_size: usize = default("16") => whole(1..=4_294_967_295),
        /// Folder of initdb and postgres for the private Postgres; unset: PATH and the usual places.
        bin_dir: Option<PathBuf> = unset("/usr/lib/postgresql/15/bin") => optional(path),
    }
    checked by check
}

fn check(database: &DatabaseConfig, reader: &mut Reader) {
    let replicas = key!("database.replica_urls");
    login::check(reader, key!("database.url"), database.url.iter().map(Secret::expose));
    login::check(reader, replicas, database.replica_urls.iter().map(Secret::expose));
    if database.url.is_some() {
        return;
    }
    if database.pool_size > PRIVATE_POOL {
        let why = format!("may be at most {PRIVATE_POOL} with the private Postgres");
        reader.fault(key!("database.pool_size"), &why);
    }
    if !database.replica_urls.is_empty() {
        let why = "needs database.url beside it: the private Postgres has no replicas";
        reader.fault(replicas, why);
    }
}
