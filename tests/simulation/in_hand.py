"""What is held against jobs that the users of simulated pullers have in hand: nobody else has them meanwhile."""

from __future__ import annotations

from tests.simulation.history import History, Message, Opening
from tests.simulation.users import Job, User
from zmqkit.patterns.pipeline.puller import Parcel
from zmqkit.patterns.pipeline.pusher import PusherCore
from zmqkit.testing.peers import SimPeer
from zmqkit.testing.world import World


class InHand:
    """The part of `PipelineScenario` that knows who holds what."""

    world: World
    history: History
    users: dict[SimPeer, User]
    openings: dict[SimPeer, Opening]
    pushers: list[SimPeer]
    pullers: list[SimPeer]

    def _went_on(self, peer: SimPeer, parcel: Parcel, before: bytes, first: int, bits: int, held: int) -> None:
        """A later opening of its pusher leases a parcel now, some of it at least."""
        user, session = self.users[peer], parcel.session
        epoch, lease = session.peer.about["epoch"], parcel.delivery.lease
        opening = self.history.openings[epoch]
        pusher = next(each for each in self.pushers if each.name == opening.name)
        sessions = {each.id for each in pusher.core.sessions} if isinstance(pusher.core, PusherCore) else set()
        for index, message in enumerate(user.parcels[parcel]):
            if not bits >> index & 1:
                continue
            known = opening.leases.get(lease + index)
            assert known is None, f"lease {lease + index} was given to {known!r}, and {message.name!r} goes on by it"
            opening.leases[lease + index] = message.name
            user.leases.setdefault(session.id, set()).add(lease + index)
            if self.openings[pusher] is opening and session.id in sessions:
                for (of, other), holder in message.held.items():
                    assert of != epoch or holder not in sessions, (
                        f"{message.name!r} goes on, and lease {other} on it is held by a living puller"
                    )
        for job in [job for job in user.jobs if job.parcel is parcel]:
            job.message.held.pop((before, first + job.index), None)
            if held >> job.index & 1:
                job.message.held[job.token] = session.id

    def _check_held(self, message: Message, epoch: bytes, newest: int) -> None:
        """Nobody has it in hand by an older lease whose session the pusher still has."""
        for pusher, opening in self.openings.items():
            if opening.epoch == epoch and message.held and isinstance(pusher.core, PusherCore):
                sessions = {session.id for session in pusher.core.sessions}
                for (of, lease), session in message.held.items():
                    assert of != epoch or lease > newest or session not in sessions, (
                        f"{message.name!r} is delivered again, and lease {lease} on it is held by a living puller"
                    )

    def _look_for_all_lost(self) -> None:
        for each in self.pullers:
            self._look_for_lost(each)

    def _look_for_lost(self, peer: SimPeer) -> None:
        """Jobs that were taken back: recalled before they were started, or held for too long; no others."""
        user = self.users.get(peer)
        if user is None:
            return
        for parcel, messages in user.parcels.items():
            if parcel.overdue:
                for index, message in enumerate(messages):
                    message.overdue |= bool(parcel.overdue >> index & 1)
        for job in [job for job in user.jobs if not job.parcel.lost and not job.open]:
            if job.parcel.overdue >> job.index & 1:
                self.world.counts["held too long"] += 1
                now = max(peer.now(), peer.turn_at)
                assert job.started, f"{job.message.name!r} is overdue, and was never handed out"
                assert job.held_until <= now + 1e-6, (
                    f"{job.message.name!r} is overdue {job.held_until - now} s too early"
                )
                self.lost_in_hand(peer, job)
            elif job.parcel.gone >> job.index & 1:
                self.world.counts["gone, others of its parcel went on"] += 1
                self.lost_in_hand(peer, job)
            else:
                assert not job.started, f"{job.message.name!r} was started, and is taken back"
                self.world.counts["taken back unstarted"] += 1
            job.let_go()
            user.jobs.remove(job)

    def lost_in_hand(self, peer: SimPeer, job: Job) -> None:
        """The user lets go of a job whose session is gone."""
