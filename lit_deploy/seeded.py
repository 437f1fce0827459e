"""``python -m lit_deploy.seeded lit_s OUT.pth``: write an official model's checkpoint with seeded weights."""

from lit_deploy.checkpoints.seeded import main

if __name__ == "__main__":
    main()
