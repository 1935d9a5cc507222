//! The statements of the store and the schema: each fits the other.

use esh3ar::store::statement;

use crate::support::Server;

#[tokio::test]
async fn every_statement_can_be_prepared() {
    let server = Server::start().await;
    let database = server.database().await;
    let all = statement::all();
    assert!(all.len() > 120, "only {} statements are listed", all.len());
    let mut refused = Vec::new();
    for statement in &all {
        if let Err(error) = database.prepare(statement.text()).await {
            let why = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            refused.push(format!("{}: {why}\n{}", statement.name(), statement.text()));
        }
    }
    assert!(refused.is_empty(), "{} refused:\n{}\n", refused.len(), refused.join("\n\n"));
}
