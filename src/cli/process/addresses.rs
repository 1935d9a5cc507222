//! Checks the addresses of the dependencies before anything connects to them: a misspelt address is an error of
//! the configuration, not of the server at the other end.

use super::{backends, database};
use crate::{
    config::{
        self, Config, ConfigErrors, ConfigProblem, ConfigSource, ConfigSources, LoadedConfig,
    },
    sms,
};

/// Reads and checks the configuration, with its addresses.
pub(crate) fn load(sources: ConfigSources) -> Result<LoadedConfig, ConfigErrors> {
    let loaded = config::load(sources)?;
    let faults: Vec<ConfigProblem> = wrong(&loaded.config)
        .into_iter()
        .map(|(key, text)| {
            let origin = loaded.origins.iter().find(|origin| origin.key == key);
            let source = origin.map_or(ConfigSource::Default, |origin| origin.source.clone());
            ConfigProblem { source, text }
        })
        .collect();
    if faults.is_empty() { Ok(loaded) } else { Err(ConfigErrors(faults)) }
}

/// Keys and the errors in their addresses, which are not quoted: they contain passwords.
fn wrong(config: &Config) -> Vec<(String, String)> {
    let mut faults: Vec<(String, String)> = Vec::new();
    let database = &config.database;
    let urls = database.url.iter().map(|url| ("database.url", url));
    let replicas = database.replica_urls.iter().map(|url| ("database.replica_urls", url));
    for (key, url) in urls.chain(replicas) {
        if let Err(failure) = database::parse(key, url) {
            faults.push((key.to_owned(), failure.what));
        }
    }
    if let Err(failure) = backends::broker(config) {
        faults.push(("queue.url".to_owned(), failure.what));
    }
    if let Err(failure) = backends::redis_target(config) {
        faults.push(("cache.url".to_owned(), failure.what));
    }
    for (index, gateway) in config.sms.gateways.iter().enumerate() {
        if let Err(why) = sms::check_body(gateway) {
            let key = format!("sms.gateways.{index}.body");
            let text = format!("{key} {why} (gateway {})", gateway.name());
            faults.push((key, text));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let file = Some(("x.toml".to_owned(), text.to_owned()));
        load(ConfigSources { file, ..ConfigSources::default() })
            .map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn what_is_no_address_is_told_with_its_line_and_never_shown() {
        for url in ["mysql://u:hunter2@h/x", "hunter2", "postgres://u:hunter2@h:port/x"] {
            let told = faults(&format!("[database]\nurl = '{url}'"));
            assert!(told.starts_with("x.toml:2: database.url: "), "{told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let given =
            "[database]\nurl = 'postgres://h/x'\n[queue]\nurl = 'amqp://u:hunter2@h:x'\n[cache]\n";
        let told = faults(&format!("{given}url = 'redis+else://hunter2@h'"));
        assert!(
            told.contains("x.toml:4: queue.url") && told.contains("x.toml:6: cache.url"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!(faults("[database]\nurl = 'postgresql://u:p@a,b:5433/x?sslmode=require'"), "");
    }

    #[test]
    fn a_password_that_is_not_encoded_is_told_by_every_key_and_no_part_of_it_is_shown() {
        let told = faults(
            "[database]\nurl = 'postgres://u:hun@ter2@h/x'\nreplica_urls = ['postgres://h/x', \
             'postgres://u:12/hunter2@h/x']\n[queue]\nurl = 'amqp://h,amqp://u:hunter2@hunter2@h'\n\
             [cache]\nurl = 'redis://u:1#hunter2@h'\n",
        );
        for place in ["x.toml:2: database.url", "x.toml:3: database.replica_urls"] {
            assert!(told.contains(&format!("{place} holds a user name or password")), "{told}");
        }
        for place in ["x.toml:5: queue.url", "x.toml:7: cache.url"] {
            assert!(told.contains(&format!("{place} holds a user name or password")), "{told}");
        }
        assert!(!told.contains("ter2"), "{told}");
        let good = "[database]\nurl = 'postgres://u:hun%40ter2@h/x'\n[queue]\n\
                    url = 'amqp://u:p%2Fw@h'\n[cache]\nurl = 'redis://u:p%23w@h'\n";
        assert_eq!(faults(good), "");
    }
}
