//! What a database consists of, to compare a restored one with a freshly migrated one.
//!
//! Every object that was created after initdb is one line of text. A trigger, a function or a default that a
//! backup file has and the migrations have not would run in the serving database.

use std::collections::BTreeSet;

use crate::store::{Error, Statements as _, Store, statement::statements};

statements! {
    // By name and definition, never by number: a restored table lacks the gaps of dropped columns. Nothing here
    // calls a function of the database: the search path is pg_catalog, and `pg_get_…` only print.
    OBJECTS: once = "
        SELECT 'schema ' || quote_ident(nspname) || coalesce(' ' || nspacl::text, '') AS object
        FROM pg_namespace WHERE oid >= 16384
        UNION ALL
        SELECT 'table ' || c.oid::regclass::text || ' ' || c.relkind::text || c.relpersistence::text
            || ' ' || coalesce(c.reloptions::text, '') || ' ' || coalesce(c.relacl::text, '')
            || CASE WHEN c.relrowsecurity OR c.relforcerowsecurity THEN ' row security' ELSE '' END
            || CASE WHEN c.reloftype <> 0 THEN ' of type' ELSE '' END
            || coalesce(' ' || pg_get_viewdef(CASE WHEN c.relkind IN ('v', 'm') THEN c.oid END), '')
        FROM pg_class c WHERE c.oid >= 16384 AND c.relkind NOT IN ('i', 'I', 't')
        UNION ALL
        SELECT 'column ' || a.attrelid::regclass::text || '.' || quote_ident(a.attname) || ' '
            || format_type(a.atttypid, a.atttypmod)
            || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
            || ' ' || a.attidentity::text || a.attgenerated::text || a.attstorage::text
            || CASE WHEN a.attcollation = t.typcollation THEN '' ELSE ' ' || a.attcollation::regcollation::text END
            || coalesce(' ' || a.attacl::text, '') || coalesce(' ' || a.attoptions::text, '')
            || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relkind NOT IN ('i', 'I', 't')
        UNION ALL
        SELECT 'index ' || pg_get_indexdef(i.indexrelid) || coalesce(' ' || c.reloptions::text, '')
            || CASE WHEN i.indisvalid THEN '' ELSE ' not valid' END
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_class t ON t.oid = i.indrelid
        WHERE i.indexrelid >= 16384 AND t.relkind <> 't'
        UNION ALL
        SELECT 'sequence ' || seqrelid::regclass::text || ' ' || format_type(seqtypid, NULL) || ' '
            || concat_ws(' ', seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle)
        FROM pg_sequence WHERE seqrelid >= 16384
        UNION ALL
        SELECT 'constraint ' || quote_ident(conname) || ' of '
            || CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END
            || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE oid >= 16384
        UNION ALL
        SELECT 'trigger ' || pg_get_triggerdef(oid) || ' ' || tgenabled::text
        FROM pg_trigger WHERE oid >= 16384 AND NOT tgisinternal
        UNION ALL
        SELECT 'disabled trigger of ' || tgrelid::regclass::text
        FROM pg_trigger WHERE oid >= 16384 AND tgisinternal AND tgenabled <> 'O'
        UNION ALL
        SELECT 'rule ' || pg_get_ruledef(oid) FROM pg_rewrite
        WHERE oid >= 16384
        UNION ALL
        SELECT 'policy ' || quote_ident(polname) || ' on ' || polrelid::regclass::text FROM pg_policy
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure::text || ' ' || coalesce(p.proacl::text, '') || ' '
            || CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prokind::text END
        FROM pg_proc p WHERE p.oid >= 16384
        UNION ALL
        SELECT 'type ' || oid::regtype::text || ' ' || typtype::text || coalesce(' ' || typacl::text, '')
            || coalesce(' ' || typdefault, '')
        FROM pg_type WHERE oid >= 16384 AND typtype NOT IN ('c') AND typelem = 0
        UNION ALL
        SELECT 'enum value ' || enumtypid::regtype::text || ' ' || enumlabel FROM pg_enum
        WHERE oid >= 16384
        UNION ALL
        SELECT 'inheritance ' || inhrelid::regclass::text || ' ' || inhparent::regclass::text
        FROM pg_inherits WHERE inhrelid >= 16384
        UNION ALL
        SELECT 'event trigger ' || evtname FROM pg_event_trigger
        UNION ALL
        SELECT 'default privileges ' || coalesce(defaclacl::text, '') FROM pg_default_acl
        UNION ALL
        SELECT 'large object' FROM pg_largeobject_metadata
        UNION ALL
        SELECT 'setting ' || setconfig::text FROM pg_db_role_setting s
        JOIN pg_database d ON d.oid = s.setdatabase
        WHERE d.datname = current_database() AND setconfig <> ARRAY['log_error_verbosity=terse']
        UNION ALL
        SELECT kind || ' ' || pg_describe_object(class, oid, 0) FROM (
            SELECT 'cast', 'pg_cast'::regclass, oid FROM pg_cast UNION ALL
            SELECT 'operator', 'pg_operator'::regclass, oid FROM pg_operator UNION ALL
            SELECT 'operator class', 'pg_opclass'::regclass, oid FROM pg_opclass UNION ALL
            SELECT 'operator family', 'pg_opfamily'::regclass, oid FROM pg_opfamily UNION ALL
            SELECT 'collation', 'pg_collation'::regclass, oid FROM pg_collation UNION ALL
            SELECT 'conversion', 'pg_conversion'::regclass, oid FROM pg_conversion UNION ALL
            SELECT 'language', 'pg_language'::regclass, oid FROM pg_language UNION ALL
            SELECT 'extension', 'pg_extension'::regclass, oid FROM pg_extension UNION ALL
            SELECT 'access method', 'pg_am'::regclass, oid FROM pg_am UNION ALL
            SELECT 'transform', 'pg_transform'::regclass, oid FROM pg_transform UNION ALL
            SELECT 'statistics', 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext UNION ALL
            SELECT 'publication', 'pg_publication'::regclass, oid FROM pg_publication UNION ALL
            SELECT 'text search', 'pg_ts_config'::regclass, oid FROM pg_ts_config UNION ALL
            SELECT 'text search', 'pg_ts_dict'::regclass, oid FROM pg_ts_dict UNION ALL
            SELECT 'text search', 'pg_ts_parser'::regclass, oid FROM pg_ts_parser UNION ALL
            SELECT 'text search', 'pg_ts_template'::regclass, oid FROM pg_ts_template UNION ALL
            SELECT 'foreign data', 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
            UNION ALL
            SELECT 'foreign server', 'pg_foreign_server'::regclass, oid FROM pg_foreign_server
        ) AS o (kind, class, oid) WHERE oid >= 16384
        ORDER BY 1";
}

/// The objects of a database.
pub async fn objects(store: &Store) -> Result<BTreeSet<String>, Error> {
    let client = store.client().await?.alone();
    client
        .batch_execute(
            "SET search_path = pg_catalog; SET enable_hashjoin = on; SET enable_seqscan = on",
        )
        .await?;
    let rows = client.query(&OBJECTS, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get("object")?)).collect()
}

/// At most this many differences are named.
const MAX_DIFFERENCES: usize = 8;
/// In characters: a planted function may be long.
const MAX_OBJECT_LEN: usize = 120;

/// The differences in words; empty if there are none.
pub fn differences(found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Vec<String> {
    let short = |object: &String| {
        let line = object.split_whitespace().collect::<Vec<_>>().join(" ");
        // The text comes from the file: no control characters into a terminal.
        let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_OBJECT_LEN).collect();
        line
    };
    let unknown = found.difference(wanted).map(|object| format!("unknown: {}", short(object)));
    let missing = wanted.difference(found).map(|object| format!("missing: {}", short(object)));
    unknown.chain(missing).take(MAX_DIFFERENCES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_both_sides_and_are_bounded() {
        let set = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
        let wanted = set(&["table messages", "index a"]);
        assert!(differences(&wanted, &wanted).is_empty());
        let long = format!("function f()\n\u{1b}[2J{}", "x".repeat(500));
        let found = differences(&set(&["table messages", &long]), &wanted);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("unknown: function f() [2Jxxx"), "{found:?}");
        assert!(found[0].len() < 140 && found[1] == "missing: index a", "{found:?}");
        let many = (0..50).map(|n| format!("trigger {n}")).collect();
        assert_eq!(differences(&many, &wanted).len(), MAX_DIFFERENCES);
    }
}
