//! The campaign of `meterd prove`, for a minute: as many stories as the machine tells in it.

use std::time::Duration;

use server::prove::campaign;

/// A story that began in time is told to its end.
const TIME_MAX: Duration = Duration::from_secs(55);

#[test]
fn stories_hold_for_a_minute() {
    match campaign(1, u64::MAX, Some(TIME_MAX)) {
        Ok(done) => {
            assert!(done.seeds > 0 && done.acknowledged > 0, "{done}");
            println!("{done}");
        }
        Err(failure) => panic!(
            "{:#}\n  story   meterd prove {}\n  replay  meterd prove {}\n  where   {:#}",
            failure.reason, failure.told, failure.smallest.0, failure.smallest.1
        ),
    }
}
