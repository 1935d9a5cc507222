//! The conditions of a statement whose text depends on what is asked for.

use tokio_postgres::types::ToSql;

/// The value of a parameter.
pub(super) type Parameter = Box<dyn ToSql + Sync + Send>;

/// Values as the client takes them.
pub(super) fn parameters(values: &[Parameter]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
}

/// Conditions and their values.
#[derive(Default)]
pub(super) struct Conditions {
    sql: Vec<String>,
    pub(super) values: Vec<Parameter>,
}

impl Conditions {
    /// Adds a condition, in which `?` is the value.
    pub(super) fn add(&mut self, condition: &str, value: Parameter) {
        self.values.push(value);
        self.sql.push(condition.replace('?', &format!("${}", self.values.len())));
    }

    /// The conditions since the last call.
    pub(super) fn take(&mut self) -> String {
        match std::mem::take(&mut self.sql) {
            none if none.is_empty() => "true".to_owned(),
            some => some.join(" AND "),
        }
    }
}
