//! The way from datagram to reading and back to a confirmation allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use meter::wire::dlms::{
    Ciphered, InvokeId, Keys, Measured, Notification, Sealing, SecurityControl, Templates, Wrapper,
};
use meter::wire::{WireError, Writer};

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KEYS: Keys<'_> = Keys { encryption: &[7; 16], authentication: &[8; 16] };
const TITLE: [u8; 8] = *b"MTR00001";

fn receive(frame: &mut [u8], templates: &Templates, name: &str) -> Result<u64, WireError> {
    let (wrapper, apdu) = Wrapper::datagram_mut(frame)?;
    let header = Ciphered::peek(apdu)?;
    let plain = header.open(apdu, header.title.unwrap_or_default(), KEYS)?;
    let push = Notification::parse(plain)?;
    let template = templates.find(name).and_then(|id| templates.get(id));
    let mut sum = 0;
    template.expect("built in").run(&push, |row| sum += row.register_wh)?;

    let mut answer = [0; 64];
    let mut apdu = [0; 8];
    let mut writer = Writer::new(&mut apdu);
    Notification::write_confirmation(&mut writer, push.invoke_id, None)?;
    let confirmation = writer.written();
    let control = SecurityControl::BOTH;
    let sealing = Sealing { control, title: *b"HES00001", invocation_counter: 1, keys: KEYS };
    Wrapper::frame(wrapper.destination, wrapper.source, &mut answer, |writer| {
        sealing.general_glo(confirmation, writer)
    })?;
    Ok(sum)
}

#[test]
fn no_allocation_per_frame() {
    let templates = Templates::built_in();
    let row = Measured {
        meter: Some(TITLE),
        taken_at: 1_767_225_600,
        register_wh: 5,
        rates_wh: [Some(1); 4],
        voltage_mv: [Some(230_000); 3],
        ..Measured::default()
    };
    let rows = [row; 32];
    for (name, want) in [(Templates::SINGLE, 5), (Templates::BATCH, 5 * 32)] {
        let (mut plain, mut frame) = ([0; 8192], [0; 8192]);
        let before = ALLOCATIONS.get();
        let mut writer = Writer::new(&mut plain);
        let id = InvokeId::confirmed(1);
        let written = if name == Templates::SINGLE {
            row.write_single(id, &mut writer)
        } else {
            Measured::write_batch(&rows, id, &mut writer)
        };
        let plain = writer.written();
        let control = SecurityControl::BOTH;
        let sealing = Sealing { control, title: TITLE, invocation_counter: 1, keys: KEYS };
        let sealed = Wrapper::frame(1, 1, &mut frame, |writer| sealing.general_glo(plain, writer));
        let got = sealed.and_then(|frame| receive(frame, &templates, name));
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!((written, got, allocations), (Ok(()), Ok(want), 0), "{name}");
    }
}
