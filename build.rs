//! Generates the gRPC service from KEDA's own definition of it, without `protoc`.

use std::error::Error;

const DEFINITION: &str = "src/scaler/externalscaler.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={DEFINITION}");
    let descriptors = protox::compile([DEFINITION], ["src/scaler"])?;
    // The client is for whoever tries the service out; how it gets there is theirs.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
