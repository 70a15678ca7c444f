//! Exact dot products, signs and orders of cosines against rational arithmetic, for every format.

use std::cmp::Ordering;

use half::{bf16, f16};
use num_rational::BigRational;
use proptest::prelude::*;
use rayon::ThreadPoolBuilder;
use retainfirst_core::exact::{BinaryFormat, compare_cosines, dot_product, dot_sign};
use retainfirst_core::{Error, PARALLEL_MIN_ELEMENTS};

/// A format: its special values and its bits.
trait Format: BinaryFormat + Into<f64> + std::fmt::Debug + std::ops::Neg<Output = Self> {
    const MAX: Self;
    /// The smallest normal number.
    const MIN_POSITIVE: Self;
    const INFINITY: Self;
    const NAN: Self;
    /// Returns a value from the lowest bits.
    fn from_raw(bits: u64) -> Self;
    fn raw(self) -> u64;
    fn small(value: i8) -> Self;
}

macro_rules! format {
    ($float:ident, $bits:ty) => {
        impl Format for $float {
            const MAX: Self = $float::MAX;
            const MIN_POSITIVE: Self = $float::MIN_POSITIVE;
            const INFINITY: Self = $float::INFINITY;
            const NAN: Self = $float::NAN;
            fn from_raw(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }
            fn raw(self) -> u64 {
                self.to_bits().into()
            }
            fn small(value: i8) -> Self {
                value.into()
            }
        }
    };
}

format!(f64, u64);
format!(f32, u32);
format!(f16, u16);
format!(bf16, u16);

fn dot<T: Format>(x: &[T], y: &[T]) -> BigRational {
    let exact = |x: T| BigRational::from_float(x.into()).expect("finite");
    x.iter().zip(y).map(|(&x, &y)| exact(x) * exact(y)).sum()
}

fn sign(x: &BigRational) -> Ordering {
    x.cmp(&BigRational::from_integer(0.into()))
}

/// Returns the order of two cosines with `r`: by sign, then by square. The squares of negative cosines have the reverse order.
fn order<T: Format>(first: &[T], second: &[T], retain: &[T]) -> Ordering {
    let (x, y) = (dot(first, retain), dot(second, retain));
    let squares = || (&x * &x * dot(second, second)).cmp(&(&y * &y * dot(first, first)));
    match (sign(&x), sign(&y)) {
        (Ordering::Greater, Ordering::Greater) => squares(),
        (Ordering::Less, Ordering::Less) => squares().reverse(),
        (x, y) => x.cmp(&y),
    }
}

/// Any finite value, including subnormals and both zeros: raw bits, small integers, the smallest numbers, the smallest normal
/// numbers, and the largest.
fn element<T: Format>() -> impl Strategy<Value = T> {
    let finite = |x: T| x.into().is_finite();
    prop_oneof![
        4 => any::<u64>().prop_map(T::from_raw).prop_filter("finite", move |&x| finite(x)),
        2 => any::<i8>().prop_map(T::small),
        1 => (0..4_u64, any::<bool>(), any::<bool>()).prop_map(|(bits, normal, minus)| {
            let x = T::from_raw(if normal { T::MIN_POSITIVE.raw() - 2 + bits } else { bits });
            if minus { -x } else { x }
        }),
        1 => prop::sample::select(vec![T::MAX, -T::MAX]),
    ]
}

fn vectors<T: Format, const N: usize>(longest: usize) -> impl Strategy<Value = [Vec<T>; N]> {
    let rows = prop::collection::vec(prop::array::uniform::<_, N>(element::<T>()), 0..=longest);
    rows.prop_map(|rows| std::array::from_fn(|k| rows.iter().map(|row| row[k]).collect()))
}

/// Vectors of any values, mostly short, since rational arithmetic is slow.
fn any_vectors<T: Format, const N: usize>() -> impl Strategy<Value = [Vec<T>; N]> {
    prop_oneof![19 => vectors(12), 1 => vectors(200)]
}

/// Vectors whose dot product is exactly zero: each product occurs with both signs.
fn orthogonal<T: Format>() -> impl Strategy<Value = [Vec<T>; 2]> {
    let products = vectors::<T, 2>(50).prop_map(|[x, y]| {
        let minus = x.iter().zip(&y).map(|(&x, &y)| (y, -x));
        x.iter().copied().zip(y.iter().copied()).chain(minus).collect::<Vec<_>>()
    });
    products.prop_shuffle().prop_map(|pairs| {
        let (x, y) = pairs.into_iter().unzip();
        [x, y]
    })
}

fn check_order<T: Format>([first, second, retain]: [Vec<T>; 3]) -> Result<(), TestCaseError> {
    let is_zero = |x: &[T]| x.iter().all(|&x| x.into() == 0.0);
    let zero = [("first", &first), ("second", &second), ("retain", &retain)];
    let expected = match zero.into_iter().find(|(_, x)| is_zero(x)) {
        Some((name, _)) => Err(Error::ZeroVector { name }),
        None => Ok(order(&first, &second, &retain)),
    };
    prop_assert_eq!(compare_cosines(&first, &second, &retain), expected.clone());
    if let Ok(order) = expected {
        prop_assert_eq!(compare_cosines(&second, &first, &retain), Ok(order.reverse()));
        prop_assert_eq!(compare_cosines(&first, &first, &retain), Ok(Ordering::Equal));
    }
    Ok(())
}

macro_rules! properties {
    ($name:ident, $format:ty) => {
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

                #[test]
                fn products_and_signs([x, y] in any_vectors::<$format, 2>()) {
                    let tiny = [<$format>::from_raw(1)];
                    let product = dot_product(&x, &y).map(|product| dot(&tiny, &tiny) * product);
                    prop_assert_eq!(product, Ok(dot(&x, &y)));
                    prop_assert_eq!(dot_sign(&x, &y), Ok(sign(&dot(&x, &y))));
                }

                #[test]
                fn cancellation([mut x, mut y] in orthogonal::<$format>(), at in any::<prop::sample::Index>()) {
                    prop_assert_eq!(dot_sign(&x, &y), Ok(Ordering::Equal));
                    // The smallest product decides the sign.
                    let (at, tiny) = (at.index(x.len() + 1), <$format>::from_raw(1));
                    x.insert(at, -tiny);
                    y.insert(at, tiny);
                    prop_assert_eq!(dot_sign(&x, &y), Ok(Ordering::Less));
                }

                #[test]
                fn orders(vectors in any_vectors::<$format, 3>()) {
                    check_order(vectors)?;
                }

                #[test]
                fn orders_of_nearly_parallel_vectors(
                    [x] in vectors::<$format, 1>(12),
                    changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 3),
                ) {
                    prop_assume!(!x.is_empty());
                    // A finite number stays finite if its last bit changes.
                    let near = |(at, minus): (prop::sample::Index, bool)| {
                        let mut near = x.clone();
                        let i = at.index(x.len());
                        near[i] = <$format>::from_raw(x[i].raw() ^ 1);
                        if minus { near.into_iter().map(|x| -x).collect() } else { near }
                    };
                    check_order([near(changes[0]), near(changes[1]), near(changes[2])])?;
                    check_order([near(changes[0]), near(changes[1]), x.clone()])?;
                }
            }
        }
    };
}

properties!(float64, f64);
properties!(float32, f32);
properties!(float16, f16);
properties!(bfloat16, bf16);

fn check_subnormals<T: Format>() {
    let (normal, tiny, one) = (T::MIN_POSITIVE, T::from_raw(1), T::small(1));
    let subnormal = T::from_raw(normal.raw() - 1);
    // The sum of the largest and the smallest subnormal number is the smallest normal one; twice that is the next power of two.
    assert_eq!(dot_sign(&[subnormal, tiny, normal], &[one, one, -one]), Ok(Ordering::Equal));
    assert_eq!(dot_sign(&[subnormal, normal], &[one, -one]), Ok(Ordering::Less));
    let doubled = T::from_raw(normal.raw() + (normal.raw() & normal.raw().wrapping_neg()));
    assert_eq!(dot_sign(&[normal, normal, doubled], &[one, one, -one]), Ok(Ordering::Equal));
}

#[test]
fn subnormals_and_normal_numbers_add_up() {
    check_subnormals::<f64>();
    check_subnormals::<f32>();
    check_subnormals::<f16>();
    check_subnormals::<bf16>();
}

/// Sums the largest products, then their negatives, and last the smallest product, over many chunks.
fn check_long<T: Format>() {
    let n = PARALLEL_MIN_ELEMENTS + 70_002;
    let mut x = vec![T::MAX; n];
    let mut y = [vec![T::MAX; n / 2], vec![-T::MAX; n / 2]].concat();
    let tiny = T::from_raw(1);
    let pools = [1, 2, 3].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let square = dot_product(&[T::MAX], &[T::MAX]).unwrap();
    for pool in &pools {
        assert_eq!(pool.install(|| dot_sign(&x, &y)), Ok(Ordering::Equal));
        assert_eq!(pool.install(|| dot_product(&x, &x)), Ok(&square * n));
    }
    x.push(tiny);
    y.push(-tiny);
    let mut doubled = x.clone();
    *doubled.last_mut().unwrap() = T::from_raw(2);
    for pool in &pools {
        assert_eq!(pool.install(|| dot_sign(&x, &y)), Ok(Ordering::Less));
        assert_eq!(pool.install(|| dot_product(&x, &y)), Ok((-1).into()));
        // Both are nearly orthogonal to `y`: the first dot product is minus one unit, the second minus two.
        assert_eq!(pool.install(|| compare_cosines(&x, &doubled, &y)), Ok(Ordering::Greater));
    }
}

#[test]
fn long_vectors_and_any_number_of_threads() {
    check_long::<f64>();
    check_long::<f32>();
    check_long::<f16>();
    check_long::<bf16>();
}

/// Checks that a long dot product is the sum of those of short pieces, which take another path.
fn check_pieces<T: Format>() {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_raw(state >> 11 ^ state << 21)
    };
    let finite = |x: &T| (*x).into().is_finite();
    let x: Vec<T> = std::iter::repeat_with(next).filter(finite).take(70_003).collect();
    let y: Vec<T> = x.iter().rev().copied().collect();
    let pieces = x.chunks(50).zip(y.chunks(50)).map(|(x, y)| dot_product(x, y).unwrap());
    assert_eq!(dot_product(&x, &y), Ok(pieces.sum()));
}

#[test]
fn long_dot_products_are_sums_of_pieces() {
    check_pieces::<f64>();
    check_pieces::<f32>();
    check_pieces::<f16>();
    check_pieces::<bf16>();
}

fn check_refusals<T: Format>() {
    let (one, inf, nan) = (T::small(1), T::INFINITY, T::NAN);
    let text = |result: Result<Ordering, Error>| result.unwrap_err().to_string();
    assert!(text(dot_sign(&[one, nan], &[inf, one])).starts_with("update[1]: NaN;"));
    assert!(text(dot_sign(&[one, one], &[-inf, nan])).starts_with("retain[0]: infinity;"));
    assert!(text(compare_cosines(&[one], &[-nan], &[one])).starts_with("second[0]: NaN;"));
    assert!(text(dot_sign(&[one], &[])).starts_with("retain: length 0, but update has 1;"));
    assert!(
        text(compare_cosines(&[one], &[one, nan], &[one])).starts_with("second: length 2, but first has 1;")
    );
    assert_eq!(compare_cosines(&[one], &[-T::small(0)], &[one]), Err(Error::ZeroVector { name: "second" }));
    assert_eq!(compare_cosines::<T>(&[], &[], &[]), Err(Error::ZeroVector { name: "first" }));
    assert_eq!(
        dot_product(&[one, nan], &[inf, one]).unwrap_err(),
        dot_sign(&[one, nan], &[inf, one]).unwrap_err()
    );
    assert_eq!(dot_product(&[one], &[]).unwrap_err(), dot_sign(&[one], &[]).unwrap_err());
    assert_eq!(dot_product::<T>(&[], &[]), Ok(0.into()));
    assert_eq!(dot_sign::<T>(&[], &[]), Ok(Ordering::Equal));
    assert_eq!(dot_sign(&[-T::small(0), one], &[one, T::small(0)]), Ok(Ordering::Equal));
}

#[test]
fn refusals_name_the_argument_and_the_index() {
    check_refusals::<f64>();
    check_refusals::<f32>();
    check_refusals::<f16>();
    check_refusals::<bf16>();
}
