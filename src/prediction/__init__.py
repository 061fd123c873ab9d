"""What a stored run says: classes of a person's images, suspected labels, a fitted model."""
