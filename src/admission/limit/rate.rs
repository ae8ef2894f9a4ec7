//! What a bucket allows, as arithmetic on one number: the moment at which it is full again.
//!
//! This is the generic cell rate algorithm, and it decides as a token bucket does. A moment is a whole number of units of
//! 2⁻³⁰ s, but the time between two tokens is hardly ever a whole number of them, and a rounded one would drift: at 3 tokens
//! per second by a token in half an hour. So the steps are counted, not the units. A token is 2ᵐ steps, with m such that a
//! step lasts more than one unit and at most two; then the unit in which the n-th step since the epoch begins says which step
//! it is, and adding a token is exact for ever. Where a bucket begins, its moment is rounded down to a step: it may give one
//! token early by that much, two nanoseconds, and never a token too many.

use std::time::Duration;

/// Units per second, as a power of two.
const UNITS_SHIFT: u32 = 30;

/// Latest moment, 68 years after the epoch; the clock of a table stands still there.
const MOMENT_MAX: u64 = 1 << 61;

/// Rates so slow that their bucket takes more than 68 years to fill count in units of 2⁻¹⁰ s above this number.
const COARSE: u64 = 1 << 63;

/// A coarse unit is 2²⁰ units.
const COARSE_SHIFT: u32 = 20;

/// Buckets that never fill count the tokens that were taken, above this number.
const SPENT: u64 = COARSE + (1 << 62);

/// Most steps of a bucket in fine and in coarse units, so that all sums stay inside their range.
const FINE_STEPS_MAX: u128 = 1 << 61;
const COARSE_STEPS_MAX: u128 = 1 << 60;

/// How far beyond empty a bucket has to be to count as left over from another rate, in units: five seconds. Nearer ones come from
/// a core whose reading of the clock is older than that of another one, and must not be given anything back.
const FOREIGN_AFTER: u64 = 5 << UNITS_SHIFT;

/// Bits of the mantissa of an `f64` (IEEE 754), the hidden one included.
const MANTISSA_BITS: u32 = 53;

/// What `Retry-After` says when no token will ever come.
const NEVER_SECONDS: u64 = 86_400;

/// A point in time, counted from the epoch of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment `elapsed` after the epoch.
    pub fn after(elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs().min(MOMENT_MAX >> UNITS_SHIFT);
        let fraction = (u64::from(elapsed.subsec_nanos()) << UNITS_SHIFT) / 1_000_000_000;
        Self(((seconds << UNITS_SHIFT) + fraction).min(MOMENT_MAX))
    }
}

#[cfg(test)]
impl Moment {
    /// The moment of this unit.
    pub(super) fn at_unit(units: u64) -> Self {
        Self(units)
    }
}

/// How long a refused client has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wait(u64);

impl Wait {
    /// Seconds until the next token, rounded up, at least 1; 86400 when no token will come.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// This many seconds, at least 1.
    pub fn of_seconds(seconds: u64) -> Self {
        Self(seconds.max(1))
    }

    /// No token will come.
    pub const NEVER: Self = Self(NEVER_SECONDS);

    /// Nobody can say; come again.
    pub const SHORT: Self = Self(1);
}

/// A rate and a burst, prepared for the bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    requests_per_second: f64,
    burst: u32,
    pace: Pace,
}

/// How the bucket fills.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pace {
    Never,
    Steps(Steps),
}

/// The steps of a rate: `mantissa / 2^53` of them per unit.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Steps {
    mantissa: u64,
    per_token: u64,
    per_bucket: u64,
    is_coarse: bool,
}

/// What a bucket says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A token was there; the bucket's new state.
    Passed(u64),
    /// None was there. A state that this rate cannot have, left over from another rate, is to be replaced by `settled`.
    Refused { wait: Wait, settled: Option<u64> },
}

/// What a bucket is worth keeping for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is full again and equals no bucket.
    Full,
    /// It is not full.
    Filling,
    /// It cannot be emptier than empty, which is this state.
    Beyond(u64),
}

impl Rate {
    /// `requests_per_second` is finite and not negative. More than 2³⁰ tokens per second, one per unit, are as many as that.
    pub fn new(requests_per_second: f64, burst: u32) -> Self {
        let pace = Steps::new(requests_per_second, burst).map_or(Pace::Never, Pace::Steps);
        Self { requests_per_second, burst, pace }
    }

    /// As configured.
    pub fn requests_per_second(&self) -> f64 {
        self.requests_per_second
    }

    /// As configured.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Takes a token from a bucket in `state`.
    pub(super) fn take(&self, state: u64, now: Moment) -> Verdict {
        if self.burst == 0 {
            return Verdict::Refused { wait: Wait::NEVER, settled: None };
        }
        match &self.pace {
            Pace::Never => self.take_spent(state, now),
            Pace::Steps(steps) => steps.take(state, now),
        }
    }

    fn take_spent(&self, state: u64, now: Moment) -> Verdict {
        let (empty, spent) = (SPENT + u64::from(self.burst), self.spent(state, now));
        if spent < u64::from(self.burst) {
            return Verdict::Passed(SPENT + spent + 1);
        }
        Verdict::Refused { wait: Wait::NEVER, settled: (state < SPENT).then_some(empty) }
    }

    /// Tokens that are gone. A moment says nothing about a bucket that does not fill, except that it was full, or not.
    fn spent(&self, state: u64, now: Moment) -> u64 {
        match state.checked_sub(SPENT) {
            Some(spent) => spent,
            None if has_passed(state, now) => 0,
            None => u64::from(self.burst),
        }
    }

    /// Whether a bucket in `state` may be forgotten.
    pub(super) fn standing(&self, state: u64, now: Moment) -> Standing {
        if has_passed(state, now) {
            return Standing::Full;
        }
        match &self.pace {
            Pace::Steps(steps) if self.burst > 0 => {
                steps.foreign(state, now).map_or(Standing::Filling, Standing::Beyond)
            }
            _ => Standing::Filling,
        }
    }
}

/// Whether the moment `state` lies so far back that no rate can tell it from no bucket.
fn has_passed(state: u64, now: Moment) -> bool {
    match (state.checked_sub(COARSE), state >= SPENT) {
        (_, true) => false,
        (Some(coarse), _) => coarse + 2 <= now.0 >> COARSE_SHIFT,
        (None, _) => state + 2 <= now.0,
    }
}

impl Steps {
    /// `None` when the bucket fills too slowly to tell from never: in more than a hundred million years.
    fn new(requests_per_second: f64, burst: u32) -> Option<Self> {
        if !requests_per_second.is_normal() {
            return None;
        }
        let bits = requests_per_second.to_bits();
        let mantissa = (bits & ((1 << (MANTISSA_BITS - 1)) - 1)) | (1 << (MANTISSA_BITS - 1));
        // The rate is mantissa × 2^exponent, its steps per token are 2^shift.
        let exponent = i32::try_from((bits >> (MANTISSA_BITS - 1)) & 0x7ff).ok()? - 1075;
        let shift = 30 - exponent - 53;
        if shift < 0 {
            let (mantissa, per_bucket) = ((1 << MANTISSA_BITS) - 1, u64::from(burst));
            return Some(Self { mantissa, per_token: 1, per_bucket, is_coarse: false });
        }
        let shift = u32::try_from(shift).ok()?;
        let steps = |shift: u32| {
            let per_token = 1_u128.checked_shl(shift).filter(|steps| *steps <= FINE_STEPS_MAX)?;
            Some((u64::try_from(per_token).ok()?, per_token * u128::from(burst)))
        };
        let within = |found: Option<(u64, u128)>, max: u128, is_coarse: bool| {
            let (per_token, per_bucket) = found?;
            let per_bucket = u64::try_from(per_bucket).ok().filter(|_| per_bucket <= max)?;
            Some(Self { mantissa, per_token, per_bucket, is_coarse })
        };
        within(steps(shift), FINE_STEPS_MAX, false)
            .or_else(|| within(steps(shift.checked_sub(COARSE_SHIFT)?), COARSE_STEPS_MAX, true))
    }

    fn take(&self, state: u64, now: Moment) -> Verdict {
        let at = self.at(now);
        let (index, empty) = (self.index(state), at + self.per_bucket);
        // A bucket cannot be emptier than empty.
        let full = index.clamp(at, empty);
        if full + self.per_token <= empty {
            return Verdict::Passed(self.state(full + self.per_token));
        }
        let token = full + self.per_token - self.per_bucket;
        Verdict::Refused { wait: self.wait(token, now), settled: self.foreign(state, now) }
    }

    /// The state to replace one that this rate cannot have left behind: an empty bucket.
    fn foreign(&self, state: u64, now: Moment) -> Option<u64> {
        let empty = self.state(self.at(now) + self.per_bucket);
        let after = if self.is_coarse { FOREIGN_AFTER >> COARSE_SHIFT } else { FOREIGN_AFTER };
        let is_other_pace = !self.is_coarse && state >= COARSE || state >= SPENT;
        (is_other_pace || state > empty + after).then_some(empty)
    }

    /// Units of this pace since the epoch.
    fn units(&self, now: Moment) -> u64 {
        if self.is_coarse { now.0 >> COARSE_SHIFT } else { now.0 }
    }

    /// The step that has begun.
    fn at(&self, now: Moment) -> u64 {
        narrow((u128::from(self.units(now)) * u128::from(self.mantissa)) >> MANTISSA_BITS)
    }

    /// The step that begins in the unit that `state` names; later than every step of this pace for a foreign one.
    fn index(&self, state: u64) -> u64 {
        let units = match (state.checked_sub(COARSE), self.is_coarse) {
            _ if state >= SPENT => return u64::MAX,
            (None, false) => state,
            (None, true) => (state >> COARSE_SHIFT) + 1,
            (Some(coarse), true) => coarse,
            (Some(_), false) => return u64::MAX,
        };
        let part = (1_u128 << MANTISSA_BITS) - 1;
        narrow((u128::from(units) * u128::from(self.mantissa) + part) >> MANTISSA_BITS)
    }

    /// The unit in which a step begins, rounded down, as a bucket keeps it.
    fn state(&self, index: u64) -> u64 {
        let units = narrow((u128::from(index) << MANTISSA_BITS) / u128::from(self.mantissa));
        if self.is_coarse { COARSE + units } else { units }
    }

    /// From `now` until the step `token` has begun.
    fn wait(&self, token: u64, now: Moment) -> Wait {
        let begun = (u128::from(token) << MANTISSA_BITS).div_ceil(u128::from(self.mantissa));
        let units = begun << if self.is_coarse { COARSE_SHIFT } else { 0 };
        let left = units.saturating_sub(u128::from(now.0));
        Wait(narrow(left.div_ceil(1 << UNITS_SHIFT)).max(1))
    }
}

/// Products and quotients here fit by the bounds above; if one ever did not, later is the safe side.
fn narrow(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
