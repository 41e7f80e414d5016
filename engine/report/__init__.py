"""What a campaign did: funnel, answers by arm and hour, uplift against those held out."""
