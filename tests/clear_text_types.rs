//! Types that hold keys or clear text can't be printed or serialised. It is the compiler that checks it: where one of them gets
//! a `Debug`, this file does not compile. What has such a type for a field can't derive it either.

use std::fmt::{Debug, Display};

use ckpt_db::checkpoint::lookup::{Opened, OpenedData};
use ckpt_db::checkpoint::rendering::{Manifest, Rendering};
use ckpt_db::clear::Clear;
use ckpt_db::crypto::Key;
use ckpt_db::keys::NodeKey;
use ckpt_db::regular_file::Regular;
use store_format::{NodeSecret, SymmetricSecret, Unlocker};

/// For a type that has the trait, two implementations of `Ambiguous` fit, and the compiler can't choose.
macro_rules! none_has {
    ($trait:path: $($type:ty),+) => {
        $(const _: fn() = || {
            trait Ambiguous<A> {
                fn fits() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct Has;
            impl<T: ?Sized + $trait> Ambiguous<Has> for T {}
            let _ = <$type as Ambiguous<_>>::fits;
        };)+
    };
}

none_has!(Debug: Clear, Key, NodeSecret, SymmetricSecret, Unlocker, NodeKey, Regular, Opened<'static>, OpenedData<'static>, Manifest, Rendering);
none_has!(Display: Clear, Key, NodeSecret, SymmetricSecret, Unlocker, NodeKey, Regular, Opened<'static>, OpenedData<'static>, Manifest, Rendering);
none_has!(serde::Serialize: Clear, Key, NodeSecret, SymmetricSecret, Unlocker, NodeKey, Regular, Opened<'static>, OpenedData<'static>, Manifest, Rendering);

/// The check itself: `u8` has all of them, and a type of its own none.
#[test]
fn the_compiler_has_checked_it() {
    struct Plain;
    none_has!(Debug: Plain);
    fn has<T: Debug + Display + serde::Serialize>() {}
    has::<u8>();
    let _ = Plain;
}
