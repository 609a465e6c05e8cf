//! What a cluster offers beyond the oldest Kubernetes that gantry works with.
//!
//! A field that a server does not know is never sent: some drop it in silence, some refuse the pod.

/// The oldest `1.x` that gantry works with.
pub const OLDEST: u32 = 27;
/// Since this `1.x` a security context has a field for AppArmor.
const APP_ARMOR: u32 = 30;
/// Since this `1.x` a pod has requests and limits of its own, without anybody turning that on.
const POD_RESOURCES: u32 = 34;

/// What may stand in a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The `x` of Kubernetes `1.x`; 0 when the server does not tell.
    pub minor: u32,
    /// A volume can be an image.
    pub image_volumes: bool,
}

impl Features {
    pub(crate) fn app_armor_field(self) -> bool {
        self.minor >= APP_ARMOR
    }

    pub(crate) fn pod_resources(self) -> bool {
        self.minor >= POD_RESOURCES
    }
}
