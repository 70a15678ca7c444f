//! Runtime choice of vector instructions.
//!
//! The loops are written for the auto-vectoriser and inlined into one copy a set of instructions. All copies give the same
//! bits: element-wise arithmetic is never contracted, and sums use a fused multiply-add only where the product is exact.

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
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
    {
        // SAFETY: the machine has just been asked for the three features that the function is compiled with.
        return unsafe { with_avx2(work) };
    }
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        work.run::<true>()
    } else {
        work.run::<false>()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run::<true>()
}
