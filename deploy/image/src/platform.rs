//! What an image is for.

use std::env::consts::ARCH;

use clap::ValueEnum;

/// An architecture, as OCI names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Default for Platform {
    /// This machine's.
    fn default() -> Self {
        if ARCH == "aarch64" { Self::Arm64 } else { Self::Amd64 }
    }
}

impl Platform {
    /// Rust's name of it, with glibc: musl's allocator is slow under threads, and a static glibc needs no file of the image.
    pub const fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C compiler that compiles for it, and links.
    pub fn compiler(self) -> &'static str {
        match self {
            native if native == Self::default() => "cc",
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
        }
    }
}
