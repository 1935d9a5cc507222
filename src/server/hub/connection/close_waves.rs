//! Spreads the close of connections when the process stops, so that clients do not all reconnect at once.

use std::time::Duration;

const WAVE_INTERVAL: Duration = Duration::from_millis(100);
/// Connections in a wave, while there are few.
const WAVE_SIZE: u64 = 50;
/// Past this many waves they get larger, so that the stop is bounded.
const MAX_WAVES: u64 = 100;

/// The delay of connection `number` out of this many.
pub(super) fn close_delay(number: u64, connections: u64) -> Duration {
    let waves = (connections / WAVE_SIZE + 1).min(MAX_WAVES);
    WAVE_INTERVAL * u32::try_from(number % waves).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The size of the largest wave, and the delay of the last.
    fn waves(connections: u64) -> (u64, Duration) {
        let mut waves: HashMap<Duration, u64> = HashMap::new();
        for number in 0..connections {
            *waves.entry(close_delay(1_000_000 + number, connections)).or_default() += 1;
        }
        let largest = waves.values().max().copied();
        (largest.unwrap_or_default(), waves.into_keys().max().unwrap_or_default())
    }

    #[test]
    fn few_go_at_once_and_many_evenly_within_ten_seconds() {
        assert_eq!(waves(10), (10, Duration::ZERO));
        let (largest, last) = waves(2000);
        assert!(largest <= WAVE_SIZE && last == Duration::from_secs(4), "{largest}, {last:?}");
        let (largest, last) = waves(33_000);
        assert!(largest <= 330 && last < Duration::from_secs(10), "{largest}, {last:?}");
    }
}
