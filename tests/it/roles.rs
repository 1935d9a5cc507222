//! What the database roles may do: the one that serves, the one that owns the schema, and the one that a
//! backup file is restored as.

use std::{fs, path::Path};

use esh3ar::store::{pool::parse_url, roles};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::{
    Folder, Server, connect, postgres::Postgres, private_database, run, run_json,
};

async fn login(server: &Server, role: &str) -> Client {
    let mut config = private_database(&server.data());
    config.user(role);
    connect(&config).await
}

fn check(checks: &Value, name: &str) -> Value {
    let all = checks.as_array().unwrap();
    all.iter().find(|check| check["check"] == name).cloned().unwrap_or(Value::Null)
}

/// What a role that only reads and changes rows is refused.
const REFUSED: &[&str] = &[
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY audit_log TO '/tmp/esh3ar-roles'",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT lo_import('/etc/hostname')",
    "CREATE TABLE planted (id int)",
    "CREATE TEMPORARY TABLE planted (id int)",
    "CREATE FUNCTION planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION pg_temp.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA planted",
    "CREATE ROLE planted",
    "ALTER TABLE messages ADD COLUMN planted int",
    "ALTER TABLE audit_log DISABLE TRIGGER ALL",
    "UPDATE audit_log SET reason = 'other'",
    "DELETE FROM audit_log",
    "DELETE FROM audit_log_phones",
    "TRUNCATE audit_log",
    "UPDATE schema_migrations SET name = 'other'",
    "SET ROLE esh3ar_owner",
];

async fn is_refused(client: &Client, sql: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let code = error.code().map(|code| code.code().to_owned());
    assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
}

#[tokio::test]
async fn the_serving_role_reads_and_changes_rows_and_nothing_else() {
    let server = Server::start().await;
    let shop = server.user("Shop", "SendMessages");
    server.send(&shop, "+967770000001", "x").await;
    let admin = server.database().await;
    let sql = "SELECT DISTINCT usename::text FROM pg_stat_activity
               WHERE datname = 'esh3ar' AND application_name LIKE 'esh3ar serve%'";
    let rows = admin.query(sql, &[]).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["esh3ar_app"]);
    let app = login(&server, "esh3ar_app").await;
    for sql in REFUSED {
        is_refused(&app, sql).await;
    }
    // What retention and erasure need: not younger than a day, and only the number.
    let insert = "INSERT INTO audit_log (id, at, actor_kind, actor, action, subject_kind, outcome)
                  SELECT gen_random_uuid(), now() - age, 'phone', '+967770000009', 'a.test', 'a', 'done'
                  FROM unnest(ARRAY[interval '2 days', interval '1 hour']) age";
    // Entries go from the beginning of the chain only: those before are old as well.
    let aged = admin.execute("UPDATE audit_log SET at = now() - interval '2 days'", &[]).await;
    let aged = i64::try_from(aged.unwrap()).unwrap();
    app.batch_execute(insert).await.unwrap();
    let masked =
        app.query_one("SELECT audit_log_mask('+967770000009', '+967*******09')", &[]).await;
    assert_eq!(masked.unwrap().get::<_, i64>(0), 2);
    let expired = "SELECT audit_log_expire(now() + interval '1 year', 100)";
    assert_eq!(app.query_one(expired, &[]).await.unwrap().get::<_, i64>(0), aged + 1);
    let count = "SELECT count(*) FROM audit_log WHERE actor = '+967*******09'";
    assert_eq!(admin.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    // Tables of later migrations are the application's to use as well.
    let owner = login(&server, "esh3ar_owner").await;
    is_refused(&owner, "COPY (SELECT 1) TO PROGRAM 'true'").await;
    is_refused(&owner, "CREATE ROLE planted").await;
    owner.batch_execute("CREATE TABLE later (id bigserial)").await.unwrap();
    app.batch_execute("INSERT INTO later DEFAULT VALUES; DELETE FROM later").await.unwrap();
    owner.batch_execute("DROP TABLE later").await.unwrap();
    let checks = run_json(&server.data(), &["doctor"]);
    assert_eq!(check(&checks, "database role")["state"], "ok", "{checks}");
    // A number is masked as a whole, and by a mask of it.
    for (number, mask) in
        [("+9677", "+****"), ("+967770000001", ""), ("+967770000001", "+967770000002")]
    {
        let sql = format!("SELECT audit_log_mask('{number}', '{mask}')");
        let masked = app.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0);
        assert_eq!(masked, 0, "{number} by {mask}");
    }
    // A trigger function of the owner cannot be a trigger on a table of another.
    for function in ["append_to_audit_chain", "keep_erased_phones"] {
        let sql = format!("SELECT has_function_privilege('esh3ar_app', '{function}()', 'EXECUTE')");
        assert!(!admin.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0), "{function}");
    }
    // A role may change its own settings; esh3ar sets its own over them.
    for setting in ["default_transaction_read_only = on", "search_path = pg_catalog"] {
        app.batch_execute(&format!("ALTER ROLE esh3ar_app SET {setting}")).await.unwrap();
    }
    assert_eq!(run_json(&server.data(), &["user", "add", "Later"])["name"], "Later");
    let mut server = server;
    server.stop().await;
    server.launch().await;
    let left = "SELECT count(*) FROM pg_db_role_setting WHERE setrole <> 0";
    assert_eq!(server.database().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// As a version without roles left it: everything belongs to the superuser, and everybody may connect.
#[tokio::test]
async fn an_installation_of_before_is_converted_at_its_start() {
    let mut server = Server::start().await;
    let shop = server.user("Shop", "SendMessages");
    let id = server.send(&shop, "+967770000001", "before").await;
    let earlier = "
        DO $$ DECLARE item record; BEGIN
            FOR item IN SELECT c.oid::regclass AS name FROM pg_class c
                        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' LOOP
                EXECUTE format('ALTER TABLE %s OWNER TO esh3ar', item.name);
            END LOOP;
            FOR item IN SELECT p.oid::regprocedure AS name FROM pg_proc p
                        WHERE p.pronamespace = 'public'::regnamespace LOOP
                EXECUTE format('ALTER FUNCTION %s OWNER TO esh3ar', item.name);
            END LOOP;
        END $$;
        ALTER SCHEMA public OWNER TO esh3ar;
        ALTER DATABASE esh3ar OWNER TO esh3ar;
        GRANT CONNECT, TEMPORARY ON DATABASE esh3ar TO PUBLIC;
        ALTER ROLE esh3ar_app CREATEDB";
    server.database().await.batch_execute(earlier).await.unwrap();
    server.stop().await;
    server.launch().await;
    let admin = server.database().await;
    let foreign = "SELECT count(*) FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
                   AND c.relowner <> 'esh3ar_owner'::regrole AND c.relkind IN ('r', 'S')";
    assert_eq!(admin.query_one(foreign, &[]).await.unwrap().get::<_, i64>(0), 0);
    let app = login(&server, "esh3ar_app").await;
    for sql in REFUSED {
        is_refused(&app, sql).await;
    }
    assert!(!server.status(&shop, &id).await.is_empty());
    server.send(&shop, "+967770000001", "after").await;
}

/// A backup of a database into which `plant` was put; then that is taken out again.
async fn planted(server: &Server, name: &str, plant: &str, pull: &str) -> String {
    let admin = server.database().await;
    admin.batch_execute(plant).await.unwrap();
    let file = server.folder.path().join(format!("{name}.tar")).to_str().unwrap().to_owned();
    run_json(&server.data(), &["backup", &file, "--no-verify"]);
    admin.batch_execute(pull).await.unwrap();
    file
}

fn refuses(data: &Path, file: &str, marker: &Path, what: &str) -> String {
    // Planting may have run it as superuser.
    let _ = fs::remove_file(marker);
    let output = run(data, &["restore", file, "--check"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{what} is restored: {text}");
    assert!(!marker.exists(), "{what} has run");
    text
}

#[tokio::test]
async fn what_an_enemy_put_into_a_file_never_runs() {
    let mut server = Server::start().await;
    let data = server.data();
    let shop = server.user("Shop", "SendMessages");
    server.send(&shop, "+967770000001", "x").await;
    let marker = data.join("marker");
    let touch = format!("COPY (SELECT 1) TO PROGRAM 'touch {}'", marker.display());
    // One that gives itself away, and one that keeps quiet when it is refused. What is called from an index may
    // run programs only through another function.
    let function = |body: &str| {
        format!(
            "CREATE FUNCTION planted_touch() RETURNS void LANGUAGE plpgsql AS $p$ BEGIN {body} END $p$;
             CREATE FUNCTION planted() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
             $p$ BEGIN PERFORM public.planted_touch(); RETURN true; END $p$;"
        )
    };
    let loud = function(&format!("{touch};"));
    let quiet = function(&format!("{touch}; EXCEPTION WHEN OTHERS THEN NULL;"));
    let drop = "DROP FUNCTION IF EXISTS planted() CASCADE";
    let check = "ALTER TABLE messages ADD CONSTRAINT planted CHECK (public.planted())";
    let default = "ALTER TABLE messages ADD COLUMN planted boolean DEFAULT public.planted()";
    let generated = "ALTER TABLE messages ADD COLUMN planted boolean
                     GENERATED ALWAYS AS (public.planted()) STORED";
    let index = "CREATE INDEX planted ON messages ((public.planted()))";
    let mut files = Vec::new();
    for (name, function, plant) in [
        ("function", &quiet, ""),
        ("check", &quiet, check),
        ("loud check", &loud, check),
        ("default", &quiet, default),
        ("generated column", &quiet, generated),
        ("index", &quiet, index),
    ] {
        let pull = format!(
            "{drop}; DROP FUNCTION planted_touch();
             ALTER TABLE messages DROP COLUMN IF EXISTS planted"
        );
        let file = planted(&server, name, &format!("{function} {plant}"), &pull).await;
        let text = refuses(&data, &file, &marker, name);
        if name.starts_with("loud") {
            assert!(text.contains("pg_restore: "), "{name}: {text}");
        } else {
            assert!(text.contains("unknown: ") && text.contains("planted"), "{name}: {text}");
        }
        files.push((name, file));
    }
    let trigger = format!(
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS
         $p$ BEGIN {touch}; RETURN NEW; END $p$;
         CREATE TRIGGER planted BEFORE INSERT ON mobile_users FOR EACH ROW EXECUTE FUNCTION planted()"
    );
    let file = planted(&server, "trigger", &trigger, drop).await;
    let text = refuses(&data, &file, &marker, "trigger");
    assert!(text.contains("planted"), "{text}");
    files.push(("trigger", file));
    let event = format!(
        "CREATE FUNCTION planted() RETURNS event_trigger LANGUAGE plpgsql AS
         $p$ BEGIN {touch}; END $p$;
         CREATE EVENT TRIGGER planted ON ddl_command_end EXECUTE FUNCTION planted()"
    );
    let file = planted(&server, "event trigger", &event, drop).await;
    let text = refuses(&data, &file, &marker, "event trigger");
    assert!(text.contains("EVENT TRIGGER"), "{text}");
    files.push(("event trigger", file));

    // A script of psql in place of the dump.
    let script = server.folder.path().join("script.tar");
    let text = format!("\\! touch {}\nCOPY (SELECT 1) TO PROGRAM 'true';\n", marker.display());
    with_dump(Path::new(&files[0].1), &script, text.as_bytes());
    refuses(&data, script.to_str().unwrap(), &marker, "a script of psql");

    server.stop().await;
    for (name, file) in
        files.iter().filter(|(name, _)| ["check", "loud check", "trigger"].contains(name))
    {
        let output = run(&data, &["restore", file, "--yes"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !marker.exists(), "{name}: {text}");
    }
    server.launch().await;
    let sql = "SELECT datname::text FROM pg_database WHERE datname LIKE 'esh3ar%'";
    let rows = server.database().await.query(sql, &[]).await.unwrap();
    let left: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, ["esh3ar"], "nothing was replaced, and nothing stays");
    assert!(!marker.exists());
    server.send(&shop, "+967770000001", "serves").await;
}

/// The archive with another dump, and a manifest that agrees with it.
fn with_dump(file: &Path, to: &Path, dump: &[u8]) {
    let mut archive = tar::Archive::new(fs::File::open(file).unwrap());
    let mut built = tar::Builder::new(fs::File::create(to).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if path.as_os_str() == "database.dump" {
            bytes = dump.to_vec();
        } else if path.as_os_str() == "manifest.json" {
            let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
            let sum = ring::digest::digest(&ring::digest::SHA256, dump);
            let sum: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            for entry in manifest["entries"].as_array_mut().unwrap() {
                if entry["name"] == "database.dump" {
                    entry["bytes"] = json!(dump.len());
                    entry["sha256"] = json!(sum);
                }
            }
            bytes = manifest.to_string().into_bytes();
        }
        let mut header = entry.header().clone();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        built.append_data(&mut header, path, &bytes[..]).unwrap();
    }
    built.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_postgres_has_an_owner_and_an_application() {
    let postgres = Postgres::primary().await;
    let superuser = postgres.url();
    let folder = Folder::new();
    let sql = run(&folder.data(), &["migrate", "--roles"]);
    assert!(sql.status.success());
    let sql = String::from_utf8(sql.stdout).unwrap();
    assert_eq!(sql.trim(), roles::setup_sql().trim());
    let admin = connect(&parse_url(&superuser).unwrap()).await;
    admin.batch_execute(&sql).await.unwrap();
    let (app, owner) = (
        superuser.replace("esh3ar@", "esh3ar_app@"),
        superuser.replace("esh3ar@", "esh3ar_owner@"),
    );
    let keys = folder.path().join("keys");
    let keys = keys.to_str().unwrap();
    assert!(run(&folder.data(), &["secrets", "init", keys]).status.success());
    let both = [
        ("ESH3AR__DATABASE__URL", &*app),
        ("ESH3AR__DATABASE__OWNER_URL", &*owner),
        ("ESH3AR__SECRETS__KEY_FILE", keys),
    ];
    let server = Server::start_with(&both).await;
    let shop = server.user("Shop", "SendMessages");
    let id = server.send(&shop, "+967770000001", "x").await;
    let client = server.database().await;
    for sql in REFUSED {
        is_refused(&client, sql).await;
    }
    assert!(server.run(&["migrate"]).status.success(), "while it serves");
    assert_eq!(check(&server.run_json(&["doctor"]), "database role")["state"], "ok");
    let file = server.folder.path().join("all.tar");
    let file = file.to_str().unwrap();
    assert_eq!(server.run_json(&["backup", file])["verified"], true);
    assert_eq!(server.run_json(&["restore", file, "--check"])["checked"], true);
    assert!(!server.status(&shop, &id).await.is_empty());

    // With one URL, of a superuser, all works, and doctor warns.
    let mut alone = server.command();
    alone.env("ESH3AR__DATABASE__URL", &superuser).env_remove("ESH3AR__DATABASE__OWNER_URL");
    let output = alone.args(["doctor", "-o", "json"]).output().unwrap();
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = check(&checks, "database role");
    assert_eq!(found["state"], "warn", "{checks}");
    assert!(found.to_string().contains("is superuser"), "{found}");
    let mut alone = server.command();
    alone.env("ESH3AR__DATABASE__URL", &superuser).env_remove("ESH3AR__DATABASE__OWNER_URL");
    let output = alone.args(["restore", file, "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'esh3ar_restore%'";
    assert_eq!(
        admin.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "a role of one restore"
    );
}
