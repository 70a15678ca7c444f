//! Statistics of a forget gradient, a retain gradient and an update.

mod double_double;
mod narrow;
mod scaled;

pub(crate) use double_double::{DoubleDouble, scale};
pub use narrow::NarrowSums;
pub use scaled::ScaledSums;

/// Indices of the six sums.
pub(crate) const FF: usize = 0;
pub(crate) const RR: usize = 1;
pub(crate) const FR: usize = 2;
pub(crate) const UU: usize = 3;
pub(crate) const UR: usize = 4;
pub(crate) const UF: usize = 5;

/// The two factors of each sum: forget (0), retain (1) or update (2).
const FACTORS: [(usize, usize); 6] = [(0, 0), (1, 1), (0, 1), (2, 2), (2, 1), (2, 0)];

/// Six sums over `f`, `r` and `u`, two counts, and an exponent for each of the three.
///
/// The sums are those of `f * 2^-ef`, `r * 2^-er` and `u * 2^-eu`, so that `f64` gradients of any exponent neither underflow
/// nor overflow; for the narrower formats, and for `f64` of usual size, the exponents are 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    sums: [DoubleDouble; 6],
    /// `None`: all values so far are zero. They must not determine the exponent of values that are merged later.
    exponents: [Option<i32>; 3],
    /// The number of coordinates where `f` and `r` have opposite signs. A zero has no sign.
    pub conflicts: u64,
    /// The number of coordinates.
    pub count: u64,
}

impl Moments {
    /// The names of the columns of [`Moments::row`]: those of `f` and `r` first, those of the update last.
    pub const COLUMNS: [&'static str; 11] =
        ["ff", "rr", "fr", "conflicts", "count", "ef", "er", "uu", "ur", "uf", "eu"];

    pub(crate) fn new(
        sums: [DoubleDouble; 6],
        exponents: [Option<i32>; 3],
        conflicts: u64,
        count: u64,
    ) -> Self {
        Self { sums, exponents, conflicts, count }
    }

    /// Returns all numbers in the order of [`Moments::COLUMNS`].
    #[must_use]
    pub fn row(&self) -> [f64; 11] {
        let [ff, rr, fr, uu, ur, uf] = self.sums.map(DoubleDouble::value);
        let [ef, er, eu] = [0, 1, 2].map(|i| f64::from(self.exponent(i)));
        [ff, rr, fr, self.conflicts as f64, self.count as f64, ef, er, uu, ur, uf, eu]
    }

    /// Returns the scaled `<f, f>`.
    #[must_use]
    pub fn ff(&self) -> f64 {
        self.sums[FF].value()
    }

    /// Returns the scaled `<r, r>`.
    #[must_use]
    pub fn rr(&self) -> f64 {
        self.sums[RR].value()
    }

    /// Returns the scaled `<f, r>`.
    #[must_use]
    pub fn fr(&self) -> f64 {
        self.sums[FR].value()
    }

    /// Returns the exponent `ef`.
    #[must_use]
    pub fn forget_exponent(&self) -> i32 {
        self.exponent(0)
    }

    /// Returns the exponent `er`.
    #[must_use]
    pub fn retain_exponent(&self) -> i32 {
        self.exponent(1)
    }

    /// Adds the moments of other coordinates. `f`, `r` and `u` each take the larger exponent, and sums are rescaled exactly.
    pub fn merge(&mut self, other: &Self) {
        let mut shifts = [(0, 0); 3];
        for (i, shifts) in shifts.iter_mut().enumerate() {
            let (mine, theirs) = (self.exponents[i], other.exponents[i]);
            let larger = mine.max(theirs);
            let shift = |own: Option<i32>| own.zip(larger).map_or(0, |(own, larger)| own - larger);
            *shifts = (shift(mine), shift(theirs));
            self.exponents[i] = larger;
        }
        for (i, (a, b)) in FACTORS.into_iter().enumerate() {
            let mine = self.sums[i].scaled(shifts[a].0 + shifts[b].0);
            let theirs = other.sums[i].scaled(shifts[a].1 + shifts[b].1);
            self.sums[i] = mine.plus(theirs);
        }
        self.conflicts += other.conflicts;
        self.count += other.count;
    }

    /// Copies the sums of the update from a pass over the same coordinates that measured only these.
    pub(crate) fn add_update(&mut self, update: &Self) {
        debug_assert_eq!(
            (self.count, self.exponents[..2].to_vec()),
            (update.count, update.exponents[..2].to_vec())
        );
        for i in [UU, UR, UF] {
            self.sums[i] = update.sums[i];
        }
        self.exponents[2] = update.exponents[2];
    }

    /// Forgets the sum of the products of `u` and `r`.
    pub(crate) fn without_ur(mut self) -> Self {
        self.sums[UR] = DoubleDouble::default();
        self
    }

    fn exponent(&self, i: usize) -> i32 {
        self.exponents[i].unwrap_or(0)
    }
}

/// Accumulates sums over one chunk: `ff`, `rr`, `fr` and the conflicts with `PAIR`, `uu`, `ur` and `uf` with `UPDATE`.
///
/// The functions must be `#[inline(always)]`.
pub trait Accumulate<S, V> {
    fn new(simd: S) -> Self;

    /// Adds vectors. The last ones of a chunk are padded with zeros.
    fn add<const PAIR: bool, const UPDATE: bool>(&mut self, f: V, r: V, u: V);

    /// Like [`Accumulate::add`] of all, but counts conflicts only with `CONFLICTS`, and may leave out `ur`.
    fn add_without_ur<const CONFLICTS: bool>(&mut self, f: V, r: V, u: V);

    /// Returns the moments of `count` coordinates, the padding not included.
    fn finish<const PAIR: bool, const UPDATE: bool>(self, count: usize) -> Moments;
}
