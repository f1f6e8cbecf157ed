//! The delay of a retry that fails again and again.

use std::time::Duration;

/// `first`, doubled `times` times, at most `longest`.
pub fn back_off(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let delay = |times| back_off(Duration::from_secs(10), times, Duration::from_secs(600)).as_secs();
        assert_eq!([0, 1, 2, 5, 6, 7, 40, u32::MAX].map(delay), [10, 20, 40, 320, 600, 600, 600, 600]);
    }
}
