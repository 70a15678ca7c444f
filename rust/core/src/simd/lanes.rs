//! Numbers side by side: a single one, an array, or (in the neighbouring modules) a vector of the processor.
//!
//! Written with explicit vectors since the compiler finds them by itself in one loop and misses them in the next, at up to ten
//! times the cost.

use crate::element::Wide;

/// The products of so many neighbours go to sums of their own, so that sums neither wait for each other nor depend on how many
/// lanes there are.
pub(crate) const SUMS: usize = 8;

/// Arithmetic lane by lane, each operation rounded once.
pub trait Arithmetic: Copy {
    /// What is in a lane.
    type Scalar: Copy;

    /// Returns a number in as many lanes as `self` has, whose values do not matter.
    fn filled(self, value: Self::Scalar) -> Self;

    fn add(self, other: Self) -> Self;

    fn mul(self, other: Self) -> Self;
}

/// What the rules ask of gradients side by side.
pub trait Lanes: Arithmetic<Scalar: Wide> {
    /// A truth value for each lane.
    type Mask: Copy;
    /// The same lanes in `f64`.
    type Double: Arithmetic<Scalar = f64>;
    /// How many lanes there are.
    const COUNT: usize;

    /// Where the signs are opposite. Never decided by the product, which underflows to zero for small gradients.
    fn conflict(self, other: Self) -> Self::Mask;

    /// Where either is infinite or NaN.
    fn not_finite(self, other: Self) -> Self::Mask;

    /// Takes `yes` where the mask is set and `no` elsewhere.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// How many lanes of a mask are set.
    fn count(mask: Self::Mask) -> u32;

    fn double(self) -> Self::Double;

    /// Rounds to nearest, ties to even.
    fn nearest(double: Self::Double) -> Self;

    /// Rounds to odd, see [`crate::rounding::round_to_odd`].
    fn odd(double: Self::Double) -> Self;

    /// Writes the lanes into as many places.
    fn write(self, out: &mut [Self::Scalar]);

    /// Returns as many values in the lanes, whose own do not matter.
    fn read(self, values: &[Self::Scalar]) -> Self;

    /// Does for each pair of lanes what there are no instructions for.
    #[inline(always)]
    fn each<P: Pairwise<Self::Scalar>>(self, other: Self, work: P) -> Self {
        const MOST: usize = 16;
        const { assert!(Self::COUNT <= MOST) };
        let [mut x, mut y, mut out] = [[Self::Scalar::default(); MOST]; 3];
        self.write(&mut x);
        other.write(&mut y);
        for i in 0..Self::COUNT {
            out[i] = work.apply(x[i], y[i]);
        }
        self.read(&out)
    }
}

/// Lanes whose products `f64` holds exactly.
pub trait Products: Lanes<Scalar = f32> {
    /// Adds the product of lane `i` to sum `i % SUMS`, in order.
    fn add_products(self, other: Self, sums: &mut [f64]);
}

/// A function of two numbers. Must be `#[inline(always)]`.
pub trait Pairwise<W>: Copy {
    fn apply(self, first: W, second: W) -> W;
}

macro_rules! scalar {
    ($float:ty, $odd:path) => {
        impl Arithmetic for $float {
            type Scalar = Self;

            #[inline(always)]
            fn filled(self, value: Self) -> Self {
                value
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }
        }

        impl Lanes for $float {
            type Mask = bool;
            type Double = f64;

            const COUNT: usize = 1;

            #[inline(always)]
            fn conflict(self, other: Self) -> bool {
                let is_number_but_zero = |x: Self| (x < 0.0) | (x > 0.0);
                let signs_differ = (self.to_bits() ^ other.to_bits()).cast_signed() < 0;
                signs_differ & is_number_but_zero(self) & is_number_but_zero(other)
            }

            #[inline(always)]
            fn not_finite(self, other: Self) -> bool {
                // Zero times a number is NaN if and only if that is not finite.
                (self * 0.0).is_nan() | (other * 0.0).is_nan()
            }

            #[inline(always)]
            fn select(mask: bool, yes: Self, no: Self) -> Self {
                if mask { yes } else { no }
            }

            #[inline(always)]
            fn count(mask: bool) -> u32 {
                u32::from(mask)
            }

            #[inline(always)]
            fn double(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn nearest(double: f64) -> Self {
                double as Self
            }

            #[inline(always)]
            fn odd(double: f64) -> Self {
                $odd(double)
            }

            #[inline(always)]
            fn write(self, out: &mut [Self]) {
                out[0] = self;
            }

            #[inline(always)]
            fn read(self, values: &[Self]) -> Self {
                values[0]
            }
        }
    };
}

scalar!(f32, crate::rounding::round_to_odd);
scalar!(f64, std::convert::identity);

impl<L: Arithmetic, const N: usize> Arithmetic for [L; N] {
    type Scalar = L::Scalar;

    #[inline(always)]
    fn filled(mut self, value: L::Scalar) -> Self {
        for i in 0..N {
            self[i] = self[i].filled(value);
        }
        self
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        for i in 0..N {
            self[i] = self[i].add(other[i]);
        }
        self
    }

    #[inline(always)]
    fn mul(mut self, other: Self) -> Self {
        for i in 0..N {
            self[i] = self[i].mul(other[i]);
        }
        self
    }
}

// Loops, not closures: what a closure calls is not inlined into the functions that have the instructions.
impl<L: Lanes, const N: usize> Lanes for [L; N] {
    type Mask = [L::Mask; N];
    type Double = [L::Double; N];

    const COUNT: usize = N * L::COUNT;

    #[inline(always)]
    fn conflict(self, other: Self) -> Self::Mask {
        let mut mask = [self[0].conflict(other[0]); N];
        for i in 1..N {
            mask[i] = self[i].conflict(other[i]);
        }
        mask
    }

    #[inline(always)]
    fn not_finite(self, other: Self) -> Self::Mask {
        let mut mask = [self[0].not_finite(other[0]); N];
        for i in 1..N {
            mask[i] = self[i].not_finite(other[i]);
        }
        mask
    }

    #[inline(always)]
    fn select(mask: Self::Mask, mut yes: Self, no: Self) -> Self {
        for i in 0..N {
            yes[i] = L::select(mask[i], yes[i], no[i]);
        }
        yes
    }

    #[inline(always)]
    fn count(mask: Self::Mask) -> u32 {
        let mut count = 0;
        for i in 0..N {
            count += L::count(mask[i]);
        }
        count
    }

    #[inline(always)]
    fn double(self) -> Self::Double {
        let mut double = [self[0].double(); N];
        for i in 1..N {
            double[i] = self[i].double();
        }
        double
    }

    #[inline(always)]
    fn nearest(double: Self::Double) -> Self {
        let mut near = [L::nearest(double[0]); N];
        for i in 1..N {
            near[i] = L::nearest(double[i]);
        }
        near
    }

    #[inline(always)]
    fn odd(double: Self::Double) -> Self {
        let mut odd = [L::odd(double[0]); N];
        for i in 1..N {
            odd[i] = L::odd(double[i]);
        }
        odd
    }

    #[inline(always)]
    fn each<P: Pairwise<L::Scalar>>(mut self, other: Self, work: P) -> Self {
        for i in 0..N {
            self[i] = self[i].each(other[i], work);
        }
        self
    }

    #[inline(always)]
    fn write(self, out: &mut [L::Scalar]) {
        for i in 0..N {
            self[i].write(&mut out[i * L::COUNT..]);
        }
    }

    #[inline(always)]
    fn read(mut self, values: &[L::Scalar]) -> Self {
        for i in 0..N {
            self[i] = self[i].read(&values[i * L::COUNT..]);
        }
        self
    }
}

impl Products for f32 {
    #[inline(always)]
    fn add_products(self, other: Self, sums: &mut [f64]) {
        let (x, y) = (f64::from(self), f64::from(other));
        // Without an instruction for it, a fused multiply-add is a call of a library; as the product is exact, the bits are the same.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        sums[0] = if fused { x.mul_add(y, sums[0]) } else { x * y + sums[0] };
    }
}

impl<L: Products, const N: usize> Products for [L; N] {
    #[inline(always)]
    fn add_products(self, other: Self, sums: &mut [f64]) {
        for i in 0..N {
            self[i].add_products(other[i], &mut sums[i * L::COUNT % SUMS..]);
        }
    }
}
