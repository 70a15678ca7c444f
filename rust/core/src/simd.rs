//! Runtime choice of vector instructions.
//!
//! The loops are written for the auto-vectoriser and inlined into one copy a set of instructions. All copies give the same
//! bits: element-wise arithmetic is never contracted, and sums use a fused multiply-add only where the product is exact or its
//! error is what is asked for.

/// Work that is compiled once for each set of vector instructions.
pub(crate) trait Work {
    type Output;

    /// Does the work. `FMA` says that a fused multiply-add is an instruction here, not a library call.
    ///
    /// Must be `#[inline(always)]`, as must everything below it that is hot.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs `work` in the best copy that this machine can execute.
pub(crate) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
            // SAFETY: the machine has just been asked for every feature that the function is compiled with.
            return unsafe { with_avx512(work) };
        }
        if avx2 {
            // SAFETY: as above.
            return unsafe { with_avx2(work) };
        }
    }
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        work.run::<true>()
    } else {
        work.run::<false>()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<W: Work>(work: W) -> W::Output {
    work.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run::<true>()
}

/// Runs every copy that this machine can execute, the plain one first.
#[cfg(test)]
pub(crate) fn run_all<W: Work>(make: impl Fn() -> W) -> Vec<W::Output> {
    let mut results = vec![make().run::<false>(), dispatch(make())];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
    {
        // SAFETY: the machine has just been asked for every feature that the function is compiled with.
        results.push(unsafe { with_avx2(make()) });
    }
    results
}
