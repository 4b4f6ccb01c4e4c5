//! The fuzzer's function over frames that are almost right.

use meter::wire::dlms::{
    Block, Hdlc, InvokeId, Keys, Measured, Sealing, SecurityControl, Wrapper, fuzz_frame,
};
use meter::wire::{WireError, Writer};
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>) -> Vec<u8> {
    let mut buf = [0; 1024];
    let mut writer = Writer::new(&mut buf);
    write(&mut writer).expect("a seed is short");
    writer.written().to_vec()
}

/// Good frames of every framing and kind.
fn seeds() -> Vec<Vec<u8>> {
    let keys = Keys { encryption: &[0; 16], authentication: &[1; 16] };
    let row = Measured { taken_at: 1_767_225_600, register_wh: 5, ..Measured::default() };
    let push = written(|w| Measured::write_batch(&[row, row], InvokeId::confirmed(1), w));
    let single = written(|w| row.write_single(InvokeId::confirmed(1), w));
    let mut seeds = vec![push.clone(), single];
    for control in
        [SecurityControl::BOTH, SecurityControl::ENCRYPTED, SecurityControl::AUTHENTICATED]
    {
        let sealing = Sealing { control, title: *b"MTR00001", invocation_counter: 1, keys };
        let sealed = |w: &mut Writer<'_>| sealing.general_glo(&push, w);
        let mut buf = [0; 1024];
        let frame = Wrapper::frame(1, 1, &mut buf, sealed).expect("a seed is short");
        seeds.push(frame.to_vec());
        seeds.push(written(sealed));
    }
    let mut blocks = Vec::new();
    for (index, piece) in push.chunks(40).enumerate() {
        let is_last = (index + 1) * 40 >= push.len();
        let number = u16::try_from(index + 1).expect("few blocks");
        let control = if is_last { 0xC0 } else { 0x40 };
        let block = written(|w| Block { control, number, acknowledged: 0, piece }.write(w));
        let information = [&[0xE6, 0xE7, 0x00], &block[..]].concat();
        let hdlc = Hdlc {
            destination: &[0xCE, 0xFF],
            source: &[3],
            control: 0x13,
            is_segmented: false,
            information: &information,
            size: 0,
        };
        blocks.extend(written(|w| hdlc.write(w)));
    }
    seeds.push(blocks);
    let services: [&[u8]; 6] = [
        &[0xC0, 1, 0xC1, 0, 3, 1, 0, 1, 8, 0, 255, 2, 1, 1, 2, 2, 0x11, 1, 0x11, 2],
        &[0xC4, 1, 0xC1, 0, 19, 2, 2, 17, 18, 6, 1, 0, 2, 3, 0, 4],
        &[0xC3, 1, 0xC1, 0, 0x46, 0, 0, 0x60, 3, 0x0A, 0xFF, 1, 1, 0x0F, 0],
        &[0xC7, 1, 0xC1, 0, 1, 0, 0x11, 5],
        &[0x60, 11, 0xA1, 9, 6, 7, 0x60, 0x85, 0x74, 5, 8, 1, 1],
        &[0x68, 6, 6, 0x68, 0x53, 0xFF, 0x10, 1, 0x67, 0x10, 0xDA, 0x16],
    ];
    seeds.extend(services.map(<[u8]>::to_vec));
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_frames_come_back(
        seed in proptest::sample::select(seeds()),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut frame = seed;
        for (index, byte) in changes {
            let at = index.index(frame.len());
            frame[at] = byte;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        fuzz_frame(&frame);
    }

    #[test]
    fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_frame(&bytes);
    }
}
