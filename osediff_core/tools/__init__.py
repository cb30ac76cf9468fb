"""What nobody restoring a picture needs: getting, converting, describing, counting and comparing models."""
