"""Means over noisy copies of the inputs."""

from __future__ import annotations

import captum.attr

from ._serving import PassOn, drop_in, is_ours, replaces

captum_noise_tunnel = captum.attr.NoiseTunnel.attribute  # also while ours is in its place


@replaces(captum.attr.NoiseTunnel)
class NoiseTunnel(captum.attr.NoiseTunnel):
    """Captum's mean over noisy copies, with its noise from torch's generator, of a method of this package. Methods
    of Captum's are passed on."""

    @drop_in(captum.attr.NoiseTunnel)
    def attribute(
        self,
        inputs,
        nt_type="smoothgrad",
        nt_samples=5,
        nt_samples_batch_size=None,
        stdevs=1.0,
        draw_baseline_from_distrib=False,
        **kwargs,
    ):
        if not is_ours(self.attribution_method):
            raise PassOn(f"{type(self.attribution_method).__name__} is Captum's")
        return captum_noise_tunnel(
            self, inputs, nt_type, nt_samples, nt_samples_batch_size, stdevs, draw_baseline_from_distrib, **kwargs
        )
