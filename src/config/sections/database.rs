//! `database.*`: Postgres.

use std::path::PathBuf;

use crate::config::{
    Secret,
    key::{default, unset},
    parse::{login, optional, path, secret, urls, whole},
    reader::Reader,
    sections::{key, section::section},
};

/// The private Postgres takes 64 connections; commands and its own reserve need some of them.
const MAX_PRIVATE_POOL_SIZE: usize = 48;

section! {
    /// Postgres.
    pub struct DatabaseConfig in "database." {
        /// postgres:// URL. With several hosts (host,host), the one that accepts writes is used. TLS is
        /// required for other machines, unless sslmode says otherwise. Unset: a private Postgres under
        /// data_dir.
        url: Option<Secret> =
            unset("postgres://esh3ar@db.example.com/esh3ar?sslmode=require").secret()
            => optional(secret),
        /// postgres:// URL of the role that owns the schema, for migrations, backups and restores. The role of
        /// database.url then only reads and changes rows. Unset: database.url.
        owner_url: Option<Secret> =
            unset("postgres://esh3ar_owner@db.example.com/esh3ar?sslmode=require").secret()
            => optional(secret),
        /// postgres:// URLs of streaming replicas that may serve lists and histories, as an array or separated
        /// by commas; sslmode as in database.url.
        replica_urls: Vec<Secret> =
            unset("[\"postgres://esh3ar@replica.example.com/esh3ar?sslmode=require\"]").secret()
            => urls,
        /// Maximum number of connections to Postgres, and to each replica; at most 48 with the private
        /// Postgres.
        pool_size: usize = default("16") => whole(1..=4_294_967_295),
        /// Folder that contains initdb and postgres, for the private Postgres. Unset: PATH and the usual
        /// places.
        bin_dir: Option<PathBuf> = unset("/usr/lib/postgresql/15/bin") => optional(path),
    }
    checked by check
}

fn check(database: &DatabaseConfig, reader: &mut Reader) {
    let replicas = key!("database.replica_urls");
    login::check(reader, key!("database.url"), database.url.iter().map(Secret::expose));
    login::check(reader, replicas, database.replica_urls.iter().map(Secret::expose));
    let owner = key!("database.owner_url");
    login::check(reader, owner, database.owner_url.iter().map(Secret::expose));
    if database.url.is_some() {
        return;
    }
    if database.owner_url.is_some() {
        reader.problem(owner, "needs database.url: the private Postgres has roles of its own");
    }
    if database.pool_size > MAX_PRIVATE_POOL_SIZE {
        let why = format!("must be at most {MAX_PRIVATE_POOL_SIZE} with the private Postgres");
        reader.problem(key!("database.pool_size"), &why);
    }
    if !database.replica_urls.is_empty() {
        let why = "needs database.url: the private Postgres has no replicas";
        reader.problem(replicas, why);
    }
}
