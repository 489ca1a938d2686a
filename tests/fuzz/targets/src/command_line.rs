//! The hypervisor's command line: any text gives options within their limits and complaints that can be printed, and survives being handed
//! to the next build.

use crate::check_message;
use luxen::cmdline::{self, RegionSpec};
use luxen::frame::{CHUNK_FRAMES, Mfn, MfnRange};

/// The fuzzer's entry.
pub fn run(bytes: &[u8]) {
    let Some((&[place, chunks], rest)) = bytes.split_first_chunk::<2>() else { return };
    let Ok(line) = core::str::from_utf8(rest) else { return };
    let (options, complaints) = cmdline::parse(line);
    assert!(complaints.nr_found() >= complaints.iter().count());
    complaints.iter().for_each(|complaint| check_message(&complaint));
    if let Err(error) = options.liveupdate {
        check_message(&error);
    }

    // The last option of a name counts, so saying all of it twice changes nothing.
    let twice = format!("{line} {line}");
    assert_eq!(cmdline::parse(&twice).0, options);

    let region = MfnRange::new(Mfn::new(u64::from(place) * CHUNK_FRAMES), u64::from(chunks) * CHUNK_FRAMES);
    let mut buf = vec![0; 4096];
    let written = match cmdline::write_incoming(line, region, &mut buf) {
        Ok(written) => written.to_owned(),
        Err(error) => {
            check_message(&error);
            assert!(error.needed > buf.len());
            return;
        }
    };
    let (incoming, _) = cmdline::parse(&written);
    if chunks != 0 {
        assert_eq!(incoming.liveupdate, Ok(Some(RegionSpec::exactly(region))));
    }
    assert_eq!(cmdline::Options { liveupdate: options.liveupdate, ..incoming }, options);
    assert_eq!(cmdline::write_incoming(&written, region, &mut buf), Ok(written.as_str()));
}
