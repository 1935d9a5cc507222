//! Builds the conditions of a statement whose text depends on a filter.

use tokio_postgres::types::ToSql;

/// The value of a parameter.
pub(super) type Parameter = Box<dyn ToSql + Sync + Send>;

/// Values as the driver takes them.
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
    /// Adds a condition in which `?` stands for the value.
    pub(super) fn add(&mut self, condition: &str, value: Parameter) {
        self.values.push(value);
        self.sql.push(condition.replace('?', &format!("${}", self.values.len())));
    }

    /// Takes the conditions added since the last call.
    pub(super) fn take(&mut self) -> String {
        match std::mem::take(&mut self.sql) {
            none if none.is_empty() => "true".to_owned(),
            some => some.join(" AND "),
        }
    }
}
