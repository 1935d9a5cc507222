use std::time::Duration;

use super::*;
use crate::{
    config::QueueKind,
    domain::{network::Network, retry::RetryPolicy},
};

fn file(text: &str) -> ConfigSources {
    ConfigSources {
        file: Some(("esh3ar.toml".to_owned(), text.to_owned())),
        ..ConfigSources::default()
    }
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let loaded = load(ConfigSources::default()).unwrap();
    assert_eq!(loaded.config.http.listen.to_string(), "127.0.0.1:5000");
    let wanted = RetryPolicy {
        acknowledge_timeout: Duration::from_secs(5),
        base: Duration::from_secs(1),
        attempts: 6,
    };
    assert_eq!(loaded.config.retry, wanted);
    assert!(loaded.origins.iter().all(|origin| origin.source == ConfigSource::Default));
}

#[test]
fn the_stronger_source_wins_and_says_so() {
    let mut sources = file("[http]\nlisten = \"127.0.0.1:1\"\nmax_connections = 7\n");
    sources.environment = vec![
        ("ESH3AR__HTTP__LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ];
    sources.flags = vec![("log.level", "debug".to_owned(), "-v")];
    let loaded = load(sources).unwrap();
    assert_eq!(loaded.config.http.listen.port(), 2);
    assert_eq!(loaded.config.http.max_connections, 7);
    let of = |key| {
        let origin = loaded.origins.iter().find(|origin| origin.key == key).unwrap();
        origin.source.to_string()
    };
    assert_eq!(of("http.listen"), "environment ESH3AR__HTTP__LISTEN");
    assert_eq!(of("http.max_connections"), "esh3ar.toml:3");
    assert_eq!(of("log.level"), "option -v");
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let mut sources = file(
        "[http]\nlisten = \"nowhere\"\ntls_cert = \"a.pem\"\nmax_conections = 1\n\
         [retry]\nbase = \"soon\"\n[media]\nurl = \"s3://x\"\n",
    );
    sources.environment = vec![("ESH3AR__LOG__LEVLE".to_owned(), "x".to_owned())];
    let text = load(sources).unwrap_err().to_string();
    for part in [
        "esh3ar.toml:2: http.listen must be an address",
        "esh3ar.toml:3: http.tls_cert needs http.tls_key",
        "esh3ar.toml:4: unknown key http.max_conections; did you mean http.max_connections?",
        "esh3ar.toml:6: retry.base must be a duration",
        "esh3ar.toml:8: media.url is not available in this version",
        "environment ESH3AR__LOG__LEVLE: unknown key log.levle; did you mean log.level?",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn secrets_are_not_shown_and_may_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    std::fs::write(&path, "postgres://u:hunter2@db/x\n").unwrap();
    let text = format!("[database]\nurl_file = \"{}\"\n", path.display());
    let loaded = load(file(&text)).unwrap();
    let url = loaded.config.database.url.clone().unwrap();
    assert_eq!(url.expose(), "postgres://u:hunter2@db/x");
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn broken_toml_is_an_error_that_quotes_nothing() {
    let text = "[database]\nurl = \"postgres://u:hunter2@db/x\n";
    let error = load(file(text)).unwrap_err().to_string();
    assert!(error.contains("esh3ar.toml: "), "{error}");
    assert!(error.contains("line 2"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_duration_beyond_all_measure_is_a_fault() {
    let retry = |text: &str| load(file(&format!("[retry]\nbase = \"{text}\"\n"))).is_ok();
    assert!(retry("1d"));
    assert!(!retry("2d") && !retry("99999999999d") && !retry("0s"));
}

#[test]
fn replicas_come_as_an_array_or_with_commas() {
    let urls = |sources| {
        let database = load(sources).map(|loaded| loaded.config.database);
        database.map(|d| d.replica_urls.iter().map(|u| u.expose().to_owned()).collect::<Vec<_>>())
    };
    let wanted = ["postgres://u:p@a,b/x", "postgres://c:5433/x"];
    let url = "[database]\nurl = \"postgres://p/x\"\n";
    let list = format!("{url}replica_urls = [\"{}\", \"{}\"]\n", wanted[0], wanted[1]);
    assert_eq!(urls(file(&list)).unwrap(), wanted);
    let mut sources = file(url);
    let name = "ESH3AR__DATABASE__REPLICA_URLS".to_owned();
    sources.environment = vec![(name, format!("{}, {}", wanted[0], wanted[1]))];
    assert_eq!(urls(sources).unwrap(), wanted);
    assert_eq!(urls(file(url)).unwrap(), [""; 0]);
    let alone = urls(file("[database]\nreplica_urls = [\"postgres://c/x\"]\n"));
    assert!(alone.unwrap_err().to_string().contains("needs database.url"));
}

#[test]
fn the_private_postgres_has_only_so_many_connections() {
    assert!(load(file("[database]\npool_size = 48\n")).is_ok());
    assert!(load(file("[database]\npool_size = 49\n")).is_err());
    assert!(load(file("[database]\npool_size = 49\nurl = \"postgres://x\"\n")).is_ok());
}

#[test]
fn a_number_beyond_all_measure_is_told_with_its_line_and_all_others() {
    let text = "[limits]\nqueue_depth = 99999999999999999999 # far\nmessages_per_hour = -5\n\
                messages_per_minute = 4294967296\n[http]\nmax_connections = 9_999_999_999\nx = 1\n";
    let told = load(file(text)).unwrap_err().to_string();
    for part in [
        ":2: limits.queue_depth must be a whole number up to 4294967295",
        ":3: limits.messages_per_hour must be",
        ":4: limits.messages_per_minute must be",
        ":6: http.max_connections must be a whole number from 1 to 4294967295",
        ":7: ",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

#[test]
fn a_misspelt_level_is_a_fault() {
    let level = |text: &str| load(file(&format!("[log]\nlevel = \"{text}\"\n"))).is_ok();
    assert!(level("info") && level("warn,esh3ar::store=debug"));
    assert!(!level("inf") && !level("info,esh3ar=loud"));
}

#[test]
fn the_broker_is_named_without_its_password() {
    let rest = "[database]\nurl = \"postgres://x\"\n[cache]\nurl = \"redis://x\"\n";
    let queue = |text: &str| load(file(&format!("{rest}[queue]\n{text}\n")));
    let alone = load(file("[cache]\nurl = \"redis://x\"\n")).unwrap_err().to_string();
    assert!(alone.contains("cache.url needs queue.url"), "{alone}");
    assert!(alone.contains("cache.url needs database.url"), "{alone}");
    assert!(queue("").unwrap_err().to_string().contains("cache.url needs queue.url"));
    assert!(load(file("")).unwrap().config.queue.url.is_none());
    let both = queue("url = \"amqp://u:hunter2@a/v,amqps://u:hunter2@b\"").unwrap();
    assert!(!format!("{both:?}").contains("hunter2"));
    let found = both.config.queue;
    assert_eq!((found.partitions, found.kind), (16, QueueKind::Auto));
    let text = queue("url = \"http://u:hunter2@a\"\npartitions = 65\ntype = \"mirrored\"");
    let text = text.unwrap_err().to_string();
    for part in ["queue.url must be amqp", "queue.partitions must be", "queue.type must be"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_mail_password_needs_tls_beyond_this_machine() {
    let smtp = |text: &str| {
        let text = format!("[smtp]\nfrom = \"a@x.org\"\nto = \"b@x.org\"\n{text}\n");
        load(file(&text)).map(|_| ()).map_err(|errors| errors.to_string())
    };
    let login = "username = \"u\"\npassword = \"hunter2\"";
    let told = smtp(&format!("host = \"mail.x.org\"\ntls = \"none\"\n{login}")).unwrap_err();
    assert!(told.contains("smtp.tls must be starttls or tls"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
    for good in [
        format!("host = \"mail.x.org\"\n{login}"),
        format!("host = \"mail.x.org\"\ntls = \"tls\"\n{login}"),
        format!("host = \"localhost\"\ntls = \"none\"\n{login}"),
        format!("tls = \"none\"\n{login}"),
        "host = \"mail.x.org\"\ntls = \"none\"".to_owned(),
    ] {
        assert_eq!(smtp(&good), Ok(()), "{good}");
    }
}

#[test]
fn trusted_proxies_are_networks() {
    let http = |text: &str| {
        load(file(&format!("[http]\n{text}\n")))
            .map(|loaded| loaded.config.http)
            .map_err(|errors| errors.to_string())
    };
    assert!(http("").unwrap().trusted_proxies.is_empty());
    let wanted: Vec<Network> =
        ["10.0.0.0/8", "::1"].iter().map(|network| network.parse().unwrap()).collect();
    for written in ["\"10.0.0.0/8, ::1\"", "[\"10.0.0.0/8\", \"::1\"]"] {
        let http = http(&format!("trusted_proxies = {written}")).unwrap();
        assert_eq!(http.trusted_proxies, wanted);
    }
    assert_eq!(
        http("trusted_proxies = \"10.0.0.0/8,balancer\"").unwrap_err(),
        "esh3ar.toml:2: http.trusted_proxies must be addresses or networks separated by commas: 'balancer' is \
         not an address or a network such as 10.0.0.0/8"
    );
}

#[test]
fn gateways_are_tables_with_their_own_faults_and_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, " hunter2 \n").unwrap();
    let text = format!(
        "[[sms.gateways]]\nname = \"main\"\ncountries = [\"YE\", \"SA\"]\n\
         url = \"https://gw.example/?to={{to}}\"\nheaders = {{ Authorization = \"Bearer {{secret}}\" }}\n\
         success = {{ status = \"2xx\", json = \"/status=ok\" }}\nsecret_file = \"{}\"\n\n\
         [[sms.gateways]]\nname = \"second\"\nurl = \"http://127.0.0.1:1/?k={{secret}}\"\n\
         [sms.gateways.headers]\nX-Key = \"{{secret}}\"\n",
        path.display()
    );
    let mut sources = file(&text);
    let name = "ESH3AR__SMS__GATEWAYS__1__SECRET".to_owned();
    let region = ("ESH3AR__PHONE__DEFAULT_REGION".to_owned(), "YE".to_owned());
    sources.environment = vec![(name, "hunter3".to_owned())];
    sources.environment.push(region);
    let loaded = load(sources).unwrap();
    let gateways = &loaded.config.sms.gateways;
    let found: Vec<_> = gateways.iter().map(|g| (g.name(), g.secret())).collect();
    assert_eq!(found, [("main", " hunter2 "), ("second", "hunter3")]);
    assert!(gateways[0].serves(Some("SA")) && !gateways[0].serves(Some("EG")));
    assert!(!format!("{loaded:?}").contains("hunter"));
    let of = |key: &str| {
        let origin = loaded.origins.iter().find(|origin| origin.key == key).unwrap();
        (origin.value.clone(), origin.source.to_string())
    };
    assert_eq!(of("sms.gateways.0.secret"), ("***".to_owned(), "esh3ar.toml:7".to_owned()));
    assert_eq!(of("sms.gateways.0.success.json").1, "esh3ar.toml:6");
    assert_eq!(of("sms.gateways.1.name"), ("second".to_owned(), "esh3ar.toml:10".to_owned()));
    let from = "environment ESH3AR__SMS__GATEWAYS__1__SECRET";
    assert_eq!(of("sms.gateways.1.secret"), ("***".to_owned(), from.to_owned()));

    let text = "[[sms.gateways]]\nname = \"a\"\nurl = \"https://gw.example/?to={nobody}\"\n\
                [[sms.gateways]]\nurll = \"x\"\nname = \"b\"\nurl = \"http://gw.example/\"\n\
                timeout = \"2m\"\n[[sms.gateways]]\nname = \"c\"\nurl = \"https://c\"\n\
                [[sms.gateways]]\nname = \"c\"\nurl = \"https://c\"\n";
    let told = load(file(text)).unwrap_err().to_string();
    for part in [
        "esh3ar.toml:3: sms.gateways.0.url has the unknown variable {nobody} (gateway a)",
        "esh3ar.toml:5: unknown key sms.gateways.1.urll; did you mean sms.gateways.1.url?",
        "esh3ar.toml:7: sms.gateways.1.url must begin with https://",
        "esh3ar.toml:8: sms.gateways.1.timeout must be a duration",
        "esh3ar.toml:13: sms.gateways.3.name is the name of another gateway",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
    assert!(load(file("[sms]\ngateways = \"x\"\n")).is_err());
    let told = load(file("[[sms.gateways]]\nname = \"c\"\nurl = \"https://c\"\n")).unwrap_err();
    let told = told.to_string();
    assert!(told.contains("otp.countries must name the countries"), "{told}");
}

#[test]
fn a_changed_gateway_is_a_change() {
    let read = |text: &str| load(file(&format!("{text}[otp]\ncountries = [\"YE\"]\n"))).unwrap();
    let before = read("[[sms.gateways]]\nname = \"a\"\nurl = \"https://a/\"\nmethod = \"GET\"\n");
    let now = read("[[sms.gateways]]\nname = \"a\"\nurl = \"https://b/\"\ntimeout = \"5s\"\n");
    let changed = ["sms.gateways.0.timeout", "sms.gateways.0.url", "sms.gateways.0.method"];
    assert_eq!(now.changed_since(&before), changed);
    assert!(now.changed_since(&now).is_empty());
}

#[test]
fn pages_are_named_by_their_origins() {
    let http = |text: &str| {
        load(file(&format!("[http]\n{text}\n")))
            .map(|loaded| loaded.config.http.cors_origins)
            .map_err(|errors| errors.to_string())
    };
    assert!(http("").unwrap().is_empty());
    let shown = |text: &str| {
        let origins = http(text).unwrap();
        Vec::from_iter(origins.iter().map(ToString::to_string)).join(" ")
    };
    for written in ["\"https://a.example, *\"", "[\"https://A.example:443\", \"*\"]"] {
        assert_eq!(shown(&format!("cors_origins = {written}")), "https://a.example *");
    }
    for wrong in ["a.example", "https://a.example/", "https://*.example", "null"] {
        assert_eq!(
            http(&format!("cors_origins = \"https://b.example,{wrong}\"")).unwrap_err(),
            format!(
                "esh3ar.toml:2: http.cors_origins must be origins separated by commas: '{wrong}' is not an origin \
                 such as https://app.example.com"
            )
        );
    }
}
