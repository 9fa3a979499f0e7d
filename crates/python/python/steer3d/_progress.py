"""The progress of long calls: by tqdm where it is installed, else by nothing."""


def listener(progress):
    """What native calls tell (label, done, total, message): `progress` itself where it can be called."""
    if callable(progress):
        return progress
    if not progress:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return _Bar(tqdm)


class _Bar:
    def __init__(self, tqdm):
        self.tqdm, self.bar, self.label = tqdm, None, None

    def __call__(self, label, done, total, message):
        if not label:
            self.tqdm.write(message)
            return
        if label != self.label:
            self.close()
            self.bar, self.label = self.tqdm(total=total, desc=label), label
        self.bar.total = total
        self.bar.n = done
        self.bar.refresh()
        if done >= total:
            self.close()

    def close(self):
        if self.bar is not None:
            self.bar.close()
        self.bar = self.label = None
