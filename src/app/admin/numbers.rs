//! Phone numbers that versions before stored and that would be read otherwise now. They are shown, and none
//! is changed: whose a message was meant to be only its sender knows.

use super::AdminService;
use crate::app::{By, Error, audit_log::Listing};
use crate::{
    domain::{
        Phone,
        audit::AuditAction,
        phone::{PhoneIssue, Region},
    },
    store::stored_phones,
};

/// Numbers that are looked at in one statement.
const BATCH_SIZE: usize = 1000;

/// A number that is stored, and why it is to be looked at.
#[derive(Clone, Debug)]
pub struct Doubted {
    /// As it is stored.
    pub phone: Phone,
    pub doubt: PhoneIssue,
    /// Messages to it.
    pub messages: i64,
    /// Whether it is a mobile user's.
    pub is_mobile_user: bool,
}

impl AdminService {
    /// Numbers that are to be looked at, after a given one. `region` is the one by which numbers were read
    /// when they were stored; without one it is that of the configuration.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_doubted_numbers(
        &self,
        by: &By,
        region: Option<Region>,
        after: &str,
        limit: usize,
    ) -> Result<Listing<Doubted>, Error> {
        let (found, _) = self.doubts(region, after, limit + 1, usize::MAX).await?;
        let found = Listing::of(found, limit);
        let phones: Vec<&Phone> = found.items.iter().map(|(phone, _)| phone).collect();
        let uses = stored_phones::usage(&self.core.store().client().await?, &phones).await?;
        let entry = self
            .core
            .entry(by, AuditAction::MobileCheck)
            .about(phones.iter().copied())
            .with("shown", phones.len());
        self.core.record(entry).await?;
        let items = found.items.into_iter().zip(uses).map(|((phone, doubt), of)| Doubted {
            phone,
            doubt,
            messages: of.messages,
            is_mobile_user: of.is_mobile_user,
        });
        Ok(Listing { items: items.collect(), more: found.more, cut: None })
    }

    /// How many numbers are to be looked at among the first `most` that are stored, and how many those are.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn count_doubted_numbers(&self, most: usize) -> Result<(usize, usize), Error> {
        let (found, looked_at) = self.doubts(None, "", usize::MAX, most).await?;
        Ok((found.len(), looked_at))
    }

    async fn doubts(
        &self,
        region: Option<Region>,
        after: &str,
        limit: usize,
        most: usize,
    ) -> Result<(Vec<(Phone, PhoneIssue)>, usize), Error> {
        let region = region.or(self.core.settings().default_region);
        let client = self.core.store().client().await?;
        let (mut found, mut looked_at, mut after) = (Vec::new(), 0, after.to_owned());
        loop {
            let page =
                stored_phones::stored(&client, &after, BATCH_SIZE.min(most - looked_at)).await?;
            let Some(last) = page.last() else { return Ok((found, looked_at)) };
            last.as_str().clone_into(&mut after);
            looked_at += page.len();
            for phone in page {
                if let Some(doubt) = phone.doubt(region) {
                    found.push((phone, doubt));
                    if found.len() == limit {
                        return Ok((found, looked_at));
                    }
                }
            }
            if looked_at >= most {
                return Ok((found, looked_at));
            }
            // Reading some thousands takes a while, and others wait for this thread.
            tokio::task::yield_now().await;
        }
    }
}
