//! The check of all pairs of 16-bit numbers passes for the kernels, and fails for kernels with a fault.

use std::ops::Range;

use half::{bf16, f16};
use rayon::ThreadPoolBuilder;
use retainfirst_core::exhaustive::{
    Outcome, PATTERNS, SixteenBit, Statement, Violation, check, check_kernel,
};
use retainfirst_core::{Combiner, Error, combine_into};

const COMBINERS: [Combiner; 2] = [Combiner::Sago, Combiner::SagoKeepRetain];

/// Usual weights, arbitrary ones, and those with which products overflow, underflow or vanish.
const WEIGHTS: [(f64, f64); 7] =
    [(1.0, 1.0), (0.7, 1.3), (1.0, 0.0), (1e-3, 1e3), (3e38, 3e38), (1e-45, 1e-45), (1e-45, 3e38)];

/// A format: its special values, bits and rounding.
trait Format: SixteenBit + Into<f32> + std::fmt::Debug {
    const INFINITY: u16;
    const ONE: u16;
    fn bits(self) -> u16;
    fn rounded(value: f32) -> Self;
}

macro_rules! sixteen {
    ($float:ident) => {
        impl Format for $float {
            const INFINITY: u16 = $float::INFINITY.to_bits();
            const ONE: u16 = $float::ONE.to_bits();
            fn bits(self) -> u16 {
                self.to_bits()
            }
            fn rounded(value: f32) -> Self {
                Self::from_f32(value)
            }
        }
    };
}

sixteen!(f16);
sixteen!(bf16);

/// Ranges of retain elements of every kind and both signs: zeros, subnormals, the smallest normal number, 1, the largest number,
/// infinity and NaN.
fn kinds<T: Format>() -> Vec<Range<u32>> {
    let smallest_normal = T::INFINITY & T::INFINITY.wrapping_neg();
    let starts = [0, smallest_normal - 2, T::ONE - 2, T::INFINITY - 2, 0x7ffc];
    starts.iter().flat_map(|&start| [u32::from(start), u32::from(start | 0x8000)].map(|s| s..s + 4)).collect()
}

fn kernels_pass<T: Format>() {
    for combiner in COMBINERS {
        for (alpha, gamma) in WEIGHTS {
            for range in kinds::<T>() {
                let outcome = check::<T>(combiner, alpha, gamma, range.clone()).unwrap();
                let finite = range.filter(|&r| r & 0x7fff < T::INFINITY.into()).count() as u64;
                let expected = Outcome {
                    finite: finite * 2 * u64::from(T::INFINITY),
                    not_finite: 4 * u64::from(PATTERNS) - finite * 2 * u64::from(T::INFINITY),
                    violation: None,
                };
                assert_eq!(outcome, expected, "{combiner:?} {alpha} {gamma}");
            }
        }
    }
}

#[test]
fn the_kernels_pass_on_every_kind_of_number() {
    kernels_pass::<f16>();
    kernels_pass::<bf16>();
}

fn every_pair<T: Format>() {
    for combiner in COMBINERS {
        let outcome = check::<T>(combiner, 0.7, 1.3, 0..PATTERNS).unwrap();
        let finite = 4 * u64::from(T::INFINITY).pow(2);
        assert_eq!(outcome, Outcome { finite, not_finite: (1 << 32) - finite, violation: None });
    }
}

#[test]
#[ignore = "2^34 pairs: seconds in a release build, minutes in a debug one"]
fn the_kernels_pass_on_every_pair() {
    every_pair::<f16>();
    every_pair::<bf16>();
}

/// SAGO with weights of 1, which each fault changes in one respect.
fn sago<T: Format>(f: T, r: T) -> T {
    let (x, y): (f32, f32) = (f.into(), r.into());
    let conflict = (x < 0.0 && y > 0.0) || (x > 0.0 && y < 0.0);
    if !x.is_finite() || !y.is_finite() {
        T::rounded(x + y)
    } else if conflict {
        r
    } else {
        f
    }
}

fn find_with<T: Format>(
    retain: Range<u32>,
    kernel: impl Fn(&[T], &[T], &mut [T]) + Sync,
) -> Option<Violation> {
    let kernel = |f: &[T], r: &[T], u: &mut [T]| {
        kernel(f, r, u);
        Ok(())
    };
    check_kernel::<T>(Combiner::Sago, 1.0, 1.0, retain, kernel).unwrap().violation
}

/// Checks a kernel given by a function of one pair.
fn find<T: Format>(retain: Range<u32>, update: impl Fn(T, T) -> T + Sync) -> Option<Violation> {
    find_with::<T>(retain, |f, r, u| {
        for ((u, &f), &r) in u.iter_mut().zip(f).zip(r) {
            *u = update(f, r);
        }
    })
}

#[expect(clippy::unnecessary_wraps, reason = "compared with a result of the check")]
fn violation(
    (forget, retain): (u16, u16),
    (found, expected): (u16, u16),
    statement: Statement,
) -> Option<Violation> {
    Some(Violation { forget, retain, found, expected, statement })
}

fn signs_and_zeros<T: Format>() {
    use Statement::{Specification, T1};
    assert_eq!(find::<T>(0..20, sago), None);
    assert_eq!(find::<T>(0x8000..0x8014, sago), None);

    // The product of the smallest numbers is zero in the format.
    let by_product = |f: T, r: T| {
        let product = T::rounded(f.into() * r.into()).into();
        if product < 0.0 { r } else { sago(f, T::default()) }
    };
    assert_eq!(find(0..8, by_product), violation((0x8001, 1), (0x8001, 1), T1));
    // A zero counts as a conflict.
    let zero_conflicts = |f: T, r: T| {
        let (x, y): (f32, f32) = (f.into(), r.into());
        if (x <= 0.0 && y >= 0.0) || (x >= 0.0 && y <= 0.0) { sago(r, r) } else { sago(f, r) }
    };
    assert_eq!(find(0..8, zero_conflicts), violation((1, 0), (0, 1), Specification));
    // The sign of zero is lost.
    let positive_zero = |f: T, r: T| if f.into() == 0.0 { T::default() } else { sago(f, r) };
    assert_eq!(find(7..8, positive_zero), violation((0x8000, 7), (0, 0x8000), Specification));
}

#[test]
fn faults_about_signs_and_zeros_are_found() {
    signs_and_zeros::<f16>();
    signs_and_zeros::<bf16>();
}

fn not_finite<T: Format>() {
    use Statement::{Specification, T1};
    let (infinity, nan, one) = (T::INFINITY, T::INFINITY + 1, T::ONE);
    let broken = u32::from(infinity)..u32::from(infinity) + 4;
    assert_eq!(find::<T>(broken.clone(), sago), None);

    // A selection hides NaN in one argument, and in the other.
    let masked = |f: T, r: T| if f.into().is_nan() { r } else { sago(f, r) };
    assert_eq!(
        find(one.into()..u32::from(one) + 1, masked),
        violation((nan, one), (one, nan), Specification)
    );
    let masked = |f: T, r: T| if r.into().is_nan() { f } else { sago(f, r) };
    assert_eq!(find(broken.clone(), masked), violation((0, nan), (0, nan), Specification));
    // A plain selection hides an infinity in retain, and in forget where the signs conflict.
    let selected = |f: T, r: T| {
        let conflict = (f.bits() ^ r.bits()) & 0x8000 != 0 && f.into() != 0.0 && r.into() != 0.0;
        if conflict { r } else { f }
    };
    assert_eq!(find(broken, selected), violation((0, infinity), (0, infinity), Specification));
    let minus_infinity = infinity | 0x8000;
    assert_eq!(find(1..2, selected), violation((minus_infinity, 1), (1, minus_infinity), Specification));
    // One of two opposite infinities is returned.
    let one_of_two = |f: T, r: T| if r.bits() == infinity && !f.into().is_nan() { r } else { sago(f, r) };
    assert_eq!(
        find(infinity.into()..u32::from(nan), one_of_two),
        violation((minus_infinity, infinity), (infinity, nan), Specification)
    );
    // A NaN for finite numbers violates T1 too.
    let made = |f: T, r: T| if f.bits() == 5 { T::from_bits(nan) } else { sago(f, r) };
    assert_eq!(find(0x8000..0x8001, made), violation((5, 0x8000), (nan, 5), T1));
}

#[test]
fn faults_about_nan_and_infinity_are_found() {
    not_finite::<f16>();
    not_finite::<bf16>();
}

/// Changes the update of a single pair.
fn but_for<T: Format>(pair: (u16, u16), update: u16) -> impl Fn(T, T) -> T + Sync {
    move |f, r| if (f.bits(), r.bits()) == pair { T::from_bits(update) } else { sago(f, r) }
}

fn single_pairs<T: Format>() {
    use Statement::{Specification, T1};
    let one = T::ONE;
    for retain in [one, one | 0x8000] {
        let rows = u32::from(retain) - 3..u32::from(retain) + 3;
        let sign = retain & 0x8000;
        // One unit in the last place, up and down.
        for magnitude in [1, 2, one - 1, one, one + 4321, T::INFINITY - 1] {
            let forget = sign | magnitude;
            for found in [forget - 1, forget + 1] {
                assert_eq!(
                    find(rows.clone(), but_for::<T>((forget, retain), found)),
                    violation((forget, retain), (found, forget), Specification)
                );
            }
        }
        // The smallest number against retain.
        for forget in [0, 1, 0x8000, 0x8001, one, one | 0x8000, T::INFINITY - 1, 0x8000 | (T::INFINITY - 1)] {
            let expected = sago(T::from_bits(forget), T::from_bits(retain)).bits();
            let found = (sign ^ 0x8000) | 1;
            assert_eq!(
                find(rows.clone(), but_for::<T>((forget, retain), found)),
                violation((forget, retain), (found, expected), T1)
            );
        }
        // The last pair of a row.
        let nan = T::INFINITY | 1;
        assert_eq!(find(rows.clone(), but_for::<T>((0xffff, retain), 0xffc0)), None, "all NaNs are equal");
        assert_eq!(
            find(rows, but_for::<T>((0xffff, retain), 7)),
            violation((0xffff, retain), (7, nan), Specification)
        );
    }
}

#[test]
fn a_single_wrong_pair_is_found() {
    single_pairs::<f16>();
    single_pairs::<bf16>();
}

fn left_out<T: Format>() {
    // An element that the kernel does not write holds the complement of the expected bits.
    let find = |keep: fn(usize) -> usize| {
        find_with::<T>(0x100..0x140, |f, r, u| {
            let n = keep(f.len());
            combine_into(Combiner::Sago, 1.0, 1.0, &f[..n], &r[..n], &mut u[..n], &[0..n]).unwrap();
        })
    };
    assert_eq!(find(|n| n), None);
    // The last element of an odd length: the first such row is cut into odd lengths.
    let last = |n: usize| if n % 2 == 1 { n - 1 } else { n };
    assert_eq!(find(last), violation((0x100, 0x101), (!0x100, 0x100), Statement::T1));
    // A remainder after the last full vector of eight, but only one of seven elements.
    let seven = |n: usize| if n % 8 == 7 { n - 7 } else { n };
    let nan = T::INFINITY | 1;
    assert_eq!(find(seven), violation((0xfff9, 0x101), (!nan, nan), Statement::Specification));
    // A whole row: its buffer does not keep the updates of the row before.
    let rows = std::sync::atomic::AtomicU32::new(0);
    let once = find_with::<T>(0x100..0x102, |f, r, u| {
        if rows.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 {
            combine_into(Combiner::Sago, 1.0, 1.0, f, r, u, &[0..f.len()]).unwrap();
        }
    });
    assert_eq!(once, violation((0, 0x101), (!0, 0), Statement::T1));
}

#[test]
fn unwritten_elements_are_found() {
    left_out::<f16>();
    left_out::<bf16>();
}

#[test]
fn the_first_violation_does_not_depend_on_threads() {
    let faults = |f: f16, r: f16| match (f.bits(), r.bits()) {
        (9, 0x321 | 0x345 | 0x346 | 0x3ff) | (3, 0x345) | (0x7bff, 0x321) => f16::ONE,
        _ => sago(f, r),
    };
    for threads in [1, 2, 3] {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let first = |rows| pool.install(|| find::<f16>(rows, faults));
        let one = f16::ONE.to_bits();
        assert_eq!(first(0x200..0x400), violation((9, 0x321), (one, 9), Statement::Specification));
        assert_eq!(first(0x322..0x400), violation((3, 0x345), (one, 3), Statement::Specification));
        // Too few rows for threads.
        assert_eq!(first(0x344..0x347), violation((3, 0x345), (one, 3), Statement::Specification));
        assert_eq!(first(0x3fe..0x400), violation((9, 0x3ff), (one, 9), Statement::Specification));
        assert_eq!(first(0x347..0x3ff), None);
    }
}

#[test]
fn refusals_name_the_argument() {
    let text = |combiner, alpha, gamma, start, end| {
        check::<f16>(combiner, alpha, gamma, start..end).unwrap_err().to_string()
    };
    for combiner in [Combiner::Sum, Combiner::Pcgrad, Combiner::Blur] {
        let expected = format!("combiner: {:?} is not one of sago, sago_keep_retain", combiner.name());
        assert_eq!(text(combiner, 1.0, 1.0, 0, 0), expected);
    }
    assert!(text(Combiner::Sago, 0.0, 1.0, 0, 0).starts_with("alpha: 0e0 is 0 in float32;"));
    assert!(text(Combiner::Sago, 1.0, f64::NAN, 0, 0).starts_with("gamma: NaN is NaN in float32;"));
    for (start, end) in [(0, 65537), (4, 3), (70_000, 70_000)] {
        let expected = format!("retain: ({start}, {end}) does not lie within 0..65536,");
        assert!(text(Combiner::Sago, 1.0, 1.0, start, end).starts_with(&expected));
    }
    let nothing = Outcome { finite: 0, not_finite: 0, violation: None };
    assert_eq!(check::<bf16>(Combiner::Sago, 1.0, 1.0, 65536..65536), Ok(nothing));
    let refused = Error::ZeroVector { name: "retain" };
    for rows in [0..1, 0..64] {
        let found = check_kernel::<f16>(Combiner::Sago, 1.0, 1.0, rows, |_, _, _| Err(refused.clone()));
        assert_eq!(found, Err(refused.clone()));
    }
}
