//! Rate limits that all processes count together.

use std::{sync::LazyLock, time::Duration};

use redis::Script;

use super::{Error, PREFIX, Redis};
use crate::domain::rate::Rate;

static RATE_LIMIT_SCRIPT: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("rate_limits.lua")));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateAdmission {
    /// This many, at least one.
    Passed(u32),
    /// None: a rate is exhausted.
    Wait {
        /// Its index in the list.
        rate: usize,
        retry_after: Duration,
    },
}

impl Redis {
    /// Counts up to `wanted` events under a name, as many as the rates allow. With `all_or_none`, either all of
    /// them or none.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn admit(
        &self,
        name: &str,
        wanted: u32,
        all_or_none: bool,
        rates: &[Rate],
    ) -> Result<RateAdmission, Error> {
        let answer = self.run_script(name, i64::from(wanted), all_or_none, rates).await?;
        let number = |index: usize| answer.get(index).copied().unwrap_or_default();
        Ok(match u32::try_from(number(0)) {
            Ok(passed @ 1..) => RateAdmission::Passed(passed),
            _ => RateAdmission::Wait {
                rate: usize::try_from(number(1) - 1).unwrap_or_default(),
                retry_after: Duration::from_micros(u64::try_from(number(2)).unwrap_or(1).max(1)),
            },
        })
    }

    /// The exhausted rate, by its index in the list, and how long the next event has to wait; `None` if it is
    /// allowed. Counts nothing.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn wait_of(
        &self,
        name: &str,
        rates: &[Rate],
    ) -> Result<Option<(usize, Duration)>, Error> {
        let answer = self.run_script(name, 0, false, rates).await?;
        let number = |index: usize| answer.get(index).copied().unwrap_or_default();
        let micros = u64::try_from(number(2)).unwrap_or_default();
        let rate = usize::try_from(number(1) - 1).unwrap_or_default();
        Ok((micros > 0).then(|| (rate, Duration::from_micros(micros))))
    }

    /// Takes back events that were counted and did not happen.
    ///
    /// # Errors
    /// Redis is away.
    pub async fn give_back(&self, name: &str, count: u32, rates: &[Rate]) -> Result<(), Error> {
        self.run_script(name, -i64::from(count), false, rates).await.map(|_| ())
    }

    async fn run_script(
        &self,
        name: &str,
        wanted: i64,
        all_or_none: bool,
        rates: &[Rate],
    ) -> Result<Vec<i64>, Error> {
        let mut call = RATE_LIMIT_SCRIPT.prepare_invoke();
        call.key(format!("{PREFIX}rate:{name}")).arg(wanted).arg(u8::from(all_or_none));
        for rate in rates {
            call.arg(rate.most).arg(u64::try_from(rate.part()).unwrap_or(u64::MAX));
        }
        self.run(&call).await
    }
}
